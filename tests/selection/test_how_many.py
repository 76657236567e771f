"""Runs on nested subsets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from strop.data import read_rows
from strop.data.instructions import Instruction, read_instructions
from strop.errors import StropError
from strop.selection import subset as training
from strop.selection.how_many import HowManyConfig, how_many, planned, spelled
from strop.stage import Facts
from strop.training.network import NetworkConfig, open_source
from strop.training.schedule import TrainingConfig
from strop.tuning.objective import Candidates

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


def test_who_asks_for_more_seeds_pays_for_those_alone(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(config: HowManyConfig, name: str) -> tuple[Facts, int]:
        calls = []
        real = training.train
        with monkeypatch.context() as patch:
            patch.setattr(training, "train", lambda *a, **b: calls.append(1) or real(*a, **b))
            return how_many(str(tiny_model), data, tmp_path / name, config), len(calls)

    few = replace(CONFIG, seeds=1, arms=("epochs",))
    more = replace(CONFIG, seeds=3, arms=("epochs",))
    wanted, whole = trained(more, "whole")
    assert (trained(few, "out")[1], whole) == (3, 9)
    assert trained(more, "out") == (wanted, 6)
    both = replace(more, halvings=3, arms=("steps", "epochs"))
    assert trained(both, "out")[1] == 3 + 3 * 3
    # Of another training nothing is known.
    other = replace(more, training=replace(CONFIG.training, learning_rate=1e-2))
    assert trained(other, "out")[1] == 9
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:150]))
    assert trained(other, "out")[1] == 9


def test_subsets_are_nested_and_differ_by_seed(data: Path, tiny_model: Path) -> None:
    items = training.items_of(read_instructions(data).rows, open_source(str(tiny_model)))
    keys = [[one.key for one, _ in training.in_order(items, seed)] for seed in (0, 1)]
    assert sorted(keys[0]) == sorted(keys[1])
    assert keys[0] != keys[1]
    assert [one.key for one, _ in training.in_order(items[::-1], 0)] == keys[0]


def test_rows_to_test_on_are_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [
        (Instruction(f"Say {number}", "+"), Candidates((1,), ((2,),), (2,), pairs=()))
        for number in range(400)
    ]
    every = training.split(items)[1]
    assert 30 < len(every) < training.MOST_TESTED  # a tenth
    monkeypatch.setattr(training, "MOST_TESTED", 15)
    rest, tested = training.split(items)
    assert len(rest) == 400 - len(every)
    numbers = [items.index(item) for item in tested]
    held_out = sorted(items.index(item) for item in every)
    assert set(numbers) < set(held_out)
    assert len(numbers) == 15
    assert len(set(numbers) & set(held_out[: len(held_out) // 2])) < 12  # not the first of the file
    assert training.split(items[::-1])[1] == tested


def test_rows_that_are_left_out_are_counted_of_the_whole_file(
    data: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text(data.read_text() + "broken\n")
    config = replace(CONFIG, seeds=1, arms=("epochs",))
    how_many(str(tiny_model), data, tmp_path / "out", config)
    assert "1 of 161 rows left out: 1 not JSON" in capsys.readouterr().err


def test_what_cannot_be_run_is_said(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StropError, match="did you mean 'steps'"):
        HowManyConfig(arms=("step",))
    with pytest.raises(StropError, match="which arms"):
        HowManyConfig(arms=())
    with pytest.raises(StropError, match="named twice"):
        HowManyConfig(arms=("steps", "steps"))
    with pytest.raises(StropError, match="halvings"):
        HowManyConfig(halvings=1)
    with pytest.raises(StropError, match="from 2 to 30 halvings"):
        HowManyConfig(halvings=10**9)
    with pytest.raises(StropError, match="from 1 to 32 seeds"):
        HowManyConfig(seeds=10**9)
    with pytest.raises(StropError, match="a seed is from 0"):
        HowManyConfig(seed=2**63)
    with pytest.raises(StropError, match="cannot be halved 9 times"):
        how_many(str(tiny_model), data, tmp_path / "out", replace(CONFIG, halvings=9))
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:9]))
    with pytest.raises(StropError, match="at least 8 are needed"):
        how_many(str(tiny_model), data, tmp_path / "out", CONFIG)


def test_losses_are_those_of_each_row_alone(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    from strop.data.instructions import read_instructions
    from strop.training.network import open_source, open_trainee
    from strop.tuning.effect import measure

    source = open_source(str(tiny_model))
    items = training.items_of(read_instructions(data).rows[:20], source)
    found = training.losses_of_run(source, CONFIG.network, None, (), items, tmp_path)
    network = open_trainee(source, CONFIG.network).network
    for row, (_, one) in zip(found, items, strict=True):
        alone = measure(network, [("one", one)], training.OBJECTIVE)["loss"]
        assert row == pytest.approx(alone[0], rel=1e-5)
