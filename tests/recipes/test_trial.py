"""The stage `trial` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strop.errors import StropError
from strop.recipes import STAGES, load_recipe, run_recipe

pytestmark = pytest.mark.usefixtures("one_thread", "in_process")

RECIPE = """\
name: try
stages:
  - score:
      data: data.jsonl
      scores: [length]
  - trial:
      data: ${{score}}
      model: {model}
      by: [length]
      selectors:
        not the longest: {{by: length, most: {{length: 5}}}}
      keep: 12
      parts: 2
      random: 2
      more: 1.5
      batch: 4
      learning_rate: 3e-2
      {extra}
"""


def write(model: Path, extra: str = "") -> Path:
    rows = [{"prompt": f"Say {n}", "completion": "++ " * (1 + n % 7)} for n in range(160)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("try.yaml").write_text(RECIPE.format(model=model, extra=extra))
    return Path("try.yaml")


def test_the_report_has_a_row_and_a_verdict_for_each_selector(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(write(tiny_model), STAGES)
    _, stage = run_recipe(recipe, Path("run"), STAGES)
    found = stage.metrics["measures"]["loss"]["selectors"]
    assert list(found) == ["length", "not the longest"]
    cost = stage.metrics["cost"]
    assert cost["not the longest"]["answer_tokens"] < cost["length"]["answer_tokens"]
    report = Path("run/report.md").read_text()
    for name, one in found.items():
        [row] = [line for line in report.splitlines() if f"loss: {name} against random" in line]
        assert one["against"]["random"]["verdict"] in row
        assert f"{one['mean']:.4f}" in row
        assert "2 and 2 runs" in row
    assert "against more random" in Path("run/report.html").read_text()
    assert not run_recipe(recipe, Path("run"), STAGES)[1].executed
    # How many runs are made at a time decides nothing; the seed decides which rows.
    more = load_recipe(Path("try.yaml"), STAGES, ["trial.processes=2"])
    assert not run_recipe(more, Path("run"), STAGES)[1].executed
    other = Path("try.yaml").read_text().replace("name: try", "name: try\nseed: 7")
    Path("other.yaml").write_text(other)
    again = run_recipe(load_recipe(Path("other.yaml"), STAGES), Path("other"), STAGES)[1]
    found, before = (one.metrics["measures"]["loss"]["random"] for one in (again, stage))
    assert found != before


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("dtype: float8", "dtype"),
        ("tasks: [nothing]", "nothing"),
        ("limit: -1", "limit"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StropError, match=words):
        load_recipe(write(tiny_model, extra), STAGES)
