"""What was done is not done again, and what was stopped goes on where it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tuning.rows import config, examples, preferences

from strop.data import read_json, read_rows, write_rows
from strop.errors import StropError
from strop.models.adapters import read_adapter
from strop.tuning import known, ranker
from strop.tuning.rank import rank
from strop.tuning.ranker import Ranker, RankerConfig
from strop.tuning.sample import SampleConfig, sample
from strop.tuning.tune import tune_ranker, tune_sft

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache")


def test_a_stage_is_done_once(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = examples(tmp_path / "examples.jsonl")
    first = tune_sft(str(tiny_model), data, tmp_path / "out", config())
    written = read_json(tmp_path / "out" / "manifest.json")
    assert not (tmp_path / "out.work").exists()
    assert tune_sft(str(tiny_model), data, tmp_path / "out", config()) == first
    assert "already done" in capsys.readouterr().err
    assert read_json(tmp_path / "out" / "manifest.json") == written
    tune_sft(str(tiny_model), data, tmp_path / "out", config(2e-3))
    assert read_json(tmp_path / "out" / "manifest.json")["hash"] != written["hash"]
    (tmp_path / "out" / "history.jsonl").write_text("")
    assert tune_sft(str(tiny_model), data, tmp_path / "out", config(2e-3))
    assert (tmp_path / "out" / "history.jsonl").stat().st_size


def test_a_whole_model_of_a_whole_model_is_done_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files beside the weights go along, but not those that say what the first was made of."""
    taste = preferences(tmp_path / "taste.jsonl", 20, lambda number: ("yes", "no"))
    reads = RankerConfig("pointwise", 50, 50)
    tune_ranker(str(tiny_model), taste, tmp_path / "ranker", reads, config(rank=0))
    data = examples(tmp_path / "examples.jsonl")
    tune_sft(str(tmp_path / "ranker"), data, tmp_path / "out", config(rank=0))
    with pytest.raises(StropError, match="is not a ranker"):
        rank(tmp_path / "out", data, tmp_path / "ranked")
    monkeypatch.setattr("strop.tuning.tune.fit", lambda *_: pytest.fail("made again"))
    tune_sft(str(tmp_path / "ranker"), data, tmp_path / "out", config(rank=0))


def test_training_goes_on_where_it_was_stopped(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after some steps, a run ends with the same adapter as one that was not."""
    from strop.training import loop

    data = examples(tmp_path / "examples.jsonl")
    tune_sft(str(tiny_model), data, tmp_path / "whole", config())
    take, taken = loop.Run.take_step, []

    def interrupted(self: Any, *arguments: Any) -> None:
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        take(self, *arguments)

    monkeypatch.setattr(loop, "SAVING", 1e9)
    monkeypatch.setattr(loop.Run, "take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_sft(str(tiny_model), data, tmp_path / "parts", config())
    assert not (tmp_path / "parts").exists()
    assert (tmp_path / "parts.work" / "training" / "state.pt").exists()
    tune_sft(str(tiny_model), data, tmp_path / "parts", config())
    whole, parts = (read_adapter(tmp_path / name) for name in ("whole", "parts"))
    for name, matrices in whole.layers.items():
        for one, other in zip(matrices, parts.layers[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_sampling_goes_on_where_it_was_stopped(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strop.tuning import sample as module

    monkeypatch.setattr(module, "KEPT", 4)
    data = examples(tmp_path / "examples.jsonl", 10)
    sample(str(tiny_model), data, tmp_path / "whole", SampleConfig(2, max_tokens=5))
    write, lots = module.written, []

    def interrupted(*arguments: Any) -> Any:
        lots.append(1)
        if len(lots) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(module, "written", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(str(tiny_model), data, tmp_path / "parts", SampleConfig(2, max_tokens=5))
    sample(str(tiny_model), data, tmp_path / "parts", SampleConfig(2, max_tokens=5))
    whole, parts = ((tmp_path / name / "rows.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    assert len(lots) == 4


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
def test_ranking_goes_on_where_it_was_stopped(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(known, "LOT", 3)
    fastest = iter(["float32", "float32", "bfloat16"])  # a probe may say another when it goes on
    monkeypatch.setattr(ranker, "fastest_type", lambda directory: next(fastest))
    taste = preferences(tmp_path / "taste.jsonl", 20, lambda number: (str(number), "no"))
    reads = RankerConfig(kind, 50, 50)
    tune_ranker(str(tiny_model), taste, tmp_path / "ranker", reads, config())
    data = examples(tmp_path / "examples.jsonl", 8)
    sample(str(tiny_model), data, tmp_path / "drawn", SampleConfig(3, max_tokens=5))
    rows = read_rows(tmp_path / "drawn" / "rows.jsonl")
    for row in rows:  # so that all take part
        row |= {"finish": ["end"] * 3, "candidates": ["a", "b", "c"]}
    write_rows(tmp_path / "all.jsonl", rows)
    rank(tmp_path / "ranker", tmp_path / "all.jsonl", tmp_path / "whole")
    compute, lots = Ranker.computed, []

    def interrupted(self: Ranker, items: Any, places: Any) -> Any:
        lots.append(len(places))
        if len(lots) == 3:
            raise KeyboardInterrupt
        return compute(self, items, places)

    monkeypatch.setattr(Ranker, "computed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rank(tmp_path / "ranker", tmp_path / "all.jsonl", tmp_path / "parts")
    rank(tmp_path / "ranker", tmp_path / "all.jsonl", tmp_path / "parts")
    whole, parts = ((tmp_path / name / "rows.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    assert sum(lots) - lots[2] == (16 if kind == "pairwise" else 8)


def test_log_probabilities_before_tuning_are_computed_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strop.training.network import open_trainee
    from strop.training.sequences import Group
    from strop.tuning import reference

    groups = [Group((1, 2, number), ((4, 5), (6,))) for number in range(3, 103)]
    network = open_trainee(str(tiny_model)).network
    first = reference.reference_logps(network, groups, "model", 64)
    assert len(first) == 100
    computed = reference.computed
    monkeypatch.setattr(reference, "computed", lambda *_: pytest.fail("computed again"))
    assert reference.reference_logps(network, groups, "model", 64) == first
    assert reference.reference_logps(network, groups[::-1][:9], "model", 64) == first[::-1][:9]
    monkeypatch.setattr(reference, "computed", computed)
    asked = []

    def counting(network: Any, lot: Any, room: int) -> Any:
        asked.append(len(lot))
        return computed(network, lot, room)

    monkeypatch.setattr(reference, "computed", counting)
    reference.reference_logps(network, [Group((9, 9), ((9,),)), *groups], "model", 64)
    assert asked == [1]
    reference.reference_logps(network, groups, "another model", 64)
    assert asked == [1, 64, 36]
    with sqlite3.connect(tmp_path / "cache" / reference.FILE) as base:
        base.execute("UPDATE numbers SET value = 'none'")
    again = reference.reference_logps(network, groups[:3], "model", 64)
    np.testing.assert_allclose(np.array(again), np.array(first[:3]), atol=1e-5)
    (tmp_path / "cache" / reference.FILE).write_text("damaged" * 1000)
    again = reference.reference_logps(network, groups, "model", 64)
    np.testing.assert_allclose(np.array(again), np.array(first), atol=1e-5)
