"""Runs on nested subsets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from strop.data import read_rows
from strop.errors import StropError
from strop.selection import subset as training
from strop.selection.how_many import HowManyConfig, how_many, planned, spelled
from strop.training.network import NetworkConfig
from strop.training.schedule import TrainingConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = HowManyConfig(
    halvings=2,
    seeds=3,
    network=NetworkConfig(rank=4),
    training=TrainingConfig(learning_rate=3e-2, epochs=2, batch=4),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Prompts whose answer is always the same: soon learned."""
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Say {number}", "completion": "++++"} for number in range(160)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_sizes_seeds_and_arms() -> None:
    jobs = planned(100, replace(CONFIG, halvings=3))
    assert {job.size for job in jobs} == {12, 25, 50, 100}
    assert len(jobs) == 3 * 3 * 2 + 3
    assert {(job.size, job.epochs) for job in jobs if job.arm == "steps"} == {
        (12, 2 * 100 / 12),
        (25, 8.0),
        (50, 4.0),
    }
    assert {job.epochs for job in jobs if job.arm == "epochs"} == {2}


def test_it_is_soon_enough_of_what_is_soon_learned(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    facts = how_many(str(tiny_model), data, tmp_path / "out", CONFIG)
    rows = read_rows(tmp_path / "out" / "runs.jsonl")
    assert len(rows) == 3 * 3 + 2 * 3
    assert all(row["loss"] < facts["untrained"] for row in rows)
    steps = facts["answers"]["steps"]
    assert steps["gain"]["low"] > 0
    assert steps["size"]["estimate"] < facts["examples"]
    assert (tmp_path / "out" / "curves.svg").read_text().startswith("<svg")
    assert "equal epochs: " in spelled(facts)
    assert how_many(str(tiny_model), data, tmp_path / "out", CONFIG) == facts


def test_who_is_interrupted_goes_on(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, seeds=1, arms=("epochs",))
    wanted = how_many(str(tiny_model), data, tmp_path / "whole", config)
    real, calls = training.train, []

    def broken(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(training, "train", broken)
    with pytest.raises(KeyboardInterrupt):
        how_many(str(tiny_model), data, tmp_path / "out", config)
    assert how_many(str(tiny_model), data, tmp_path / "out", config) == wanted
    assert len(calls) == 4
    assert wanted["answers"]["epochs"]["verdict"] == "cannot tell"
    assert "1 seeds were run" in spelled(wanted)


def test_subsets_are_nested_and_differ_by_seed(data: Path, tiny_model: Path) -> None:
    from strop.data.instructions import read_instructions
    from strop.training.network import open_source

    items = training.items_of(read_instructions(data).rows, open_source(str(tiny_model)))
    keys = [[one.key for one, _ in training.in_order(items, seed)] for seed in (0, 1)]
    assert sorted(keys[0]) == sorted(keys[1])
    assert keys[0] != keys[1]
    assert [one.key for one, _ in training.in_order(items[::-1], 0)] == keys[0]


def test_what_cannot_be_run_is_said(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StropError, match="did you mean 'steps'"):
        HowManyConfig(arms=("step",))
    with pytest.raises(StropError, match="which arms"):
        HowManyConfig(arms=())
    with pytest.raises(StropError, match="halvings"):
        HowManyConfig(halvings=1)
    with pytest.raises(StropError, match="cannot be halved 9 times"):
        how_many(str(tiny_model), data, tmp_path / "out", replace(CONFIG, halvings=9))
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:9]))
    with pytest.raises(StropError, match="at least 8 are needed"):
        how_many(str(tiny_model), data, tmp_path / "out", CONFIG)
