"""The stage `how-many` on a tiny model, which soon has learned enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strop.errors import StropError
from strop.recipes import STAGES, load_recipe, run_recipe

RECIPE = """\
name: enough
stages:
  - how-many:
      data: data.jsonl
      model: {model}
      halvings: 2
      arms: [epochs]
      epochs: 2
      batch: 4
      learning_rate: 3e-2
"""


def write(model: Path) -> None:
    rows = [{"prompt": f"Say {number}", "completion": "++++"} for number in range(160)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("enough.yaml").write_text(RECIPE.format(model=model))


def test_answers_and_curves_are_in_the_report(
    tiny_model: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tiny_model)
    recipe = load_recipe(Path("enough.yaml"), STAGES)
    [stage] = run_recipe(recipe, Path("run"), STAGES)
    m = stage.metrics
    assert m["answers"].keys() == {"epochs"}
    assert len(m["runs"]) == 3 * 3
    gain = m["answers"]["epochs"]["gain"]
    report = Path("run/report.md").read_text()
    [row] = [one for one in report.splitlines() if "trained on all examples" in one]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    before, after = (float(cell) for cell in cells[1:3])
    assert before == pytest.approx(m["untrained"], abs=1e-3)
    assert before - after == pytest.approx(gain["estimate"], abs=2e-3)
    low, high = (float(end) for end in cells[3].partition("[")[2].strip("]").split(", "))
    assert low <= after - before <= high < 0
    assert "3 seeds" in row
    assert m["answers"]["epochs"]["reason"] in report
    assert f"(n = {m['tested']} prompts)" in report
    page = Path("run/report.html").read_text()
    assert "Equal epochs: every size is read as often" in page
    assert "Equal steps" not in page
    assert "held-out loss, equal epochs" in page
    assert not run_recipe(recipe, Path("run"), STAGES)[0].executed


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("arms=[step]", "unknown arm 'step': did you mean 'steps'"),
        ("halvings=1", "from 2 to 30 halvings"),
        ("epochs=0", "epochs must be more than 0"),
    ],
)
def test_what_is_out_of_range_is_said_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("smollm2"))
    with pytest.raises(StropError, match=f"stage 'how-many': .*{message}"):
        load_recipe(Path("enough.yaml"), STAGES, [f"how-many.{setting}"])
