"""The example that goes from raw rows to a verdict, with a tiny model and little of everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from strop.data import read_rows
from strop.data.instructions import read_instructions
from strop.recipes import STAGES, load_recipe, run_recipe
from strop.stats import Interval

pytestmark = pytest.mark.usefixtures("one_thread", "in_process")

EXAMPLES = Path(__file__).parents[2] / "examples"
LITTLE = (
    "trial.keep=10",
    "trial.parts=2",
    "trial.random=2",
    "trial.epochs=1",
    "trial.limit=4",
    "trial.processes=1",
    "chosen.keep=80",
    "tuned.epochs=1",
    "verdict.limit=6",
)


def test_the_example_goes_from_raw_rows_to_a_verdict(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    models = [f"{stage}.model={tiny_model}" for stage in ("reader", "trial", "tuned")]
    recipe = load_recipe(Path("examples/curate.yaml"), STAGES, [*models, *LITTLE])
    stages = {stage.name: stage for stage in run_recipe(recipe, Path("run"), STAGES)}
    raw = {one.prompt for one in read_instructions(Path("examples/instructions.jsonl")).rows}
    [chosen] = stages["chosen"].directory.rglob("rows.jsonl")
    kept = [row["prompt"] for row in read_rows(chosen)]
    assert len(set(kept)) == len(kept) == 80
    assert set(kept) < raw
    loss = stages["trial"].metrics["measures"]["loss"]["selectors"]["-ifd"]
    [task] = stages["verdict"].metrics["tasks"].values()
    [figure, *_] = task["figures"].values()
    against = (loss["against"]["random"], loss["against"]["length-matched"], figure)
    for found in against:
        difference = Interval(**found["difference"])
        assert difference.low <= difference.estimate <= difference.high
        assert found["verdict"] in ("better", "worse", "cannot tell")
    assert figure["difference"]["n"] == 6
    report = Path("run/report.md").read_text()
    lines = [line for line in report.splitlines() if ": -ifd against random rows (trial)" in line]
    assert [" points " in line for line in lines] == [False, True]  # the loss, and the task
    assert figure["verdict"] in report
