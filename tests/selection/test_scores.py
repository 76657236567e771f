"""Scores without a rater."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.tuning.rows import preferences

from strop.data import read_rows
from strop.data.instructions import Instruction, read_instructions
from strop.errors import StropError
from strop.lm import Failed, LocalModel, Scores
from strop.models import load, pack
from strop.selection import losses as reading
from strop.selection import scores as scoring
from strop.selection.influence import influence
from strop.selection.scores import SCORES, score, spelled
from strop.training.network import NetworkConfig
from strop.training.schedule import TrainingConfig
from strop.tuning.fit import TuneConfig
from strop.tuning.ranker import Ranker, RankerConfig
from strop.tuning.tune import tune_ranker

TEXTS = [("Add one and two", "It is three."), ("Hello", "Hi there, you!"), ("x" * 600, "y")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [{"instruction": prompt, "output": answer} for prompt, answer in TEXTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed") / "tiny"
    pack(str(tiny_model), "bfp8", place)
    return place


def test_losses_with_and_without_the_prompt(data: Path, packed: Path, tmp_path: Path) -> None:
    names = [name for name, one in SCORES.items() if one.needs in ((), ("model",))]
    facts = score(data, names, tmp_path / "out", str(packed))
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    chat, raw = (LocalModel(load(str(packed)), chat) for chat in (True, False))
    for (prompt, answer), row in zip(TEXTS[:2], rows, strict=False):
        [(_, given)] = chat.score([(prompt, answer)])
        [(_, alone)] = raw.score([("", answer)])
        found = row["scores"]
        assert found["loss"] == pytest.approx(given.loss)
        assert found["perplexity"] == pytest.approx(math.exp(given.loss))
        assert found["ifd"] == pytest.approx(given.loss / alone.loss)
        assert found["ifd-perplexity"] == pytest.approx(math.exp(given.loss) / math.exp(alone.loss))
        assert found["length"] == 3
    assert rows[2]["scores"] == {"length": 1.0, "prompt-length": 1.0}  # it does not fit
    assert facts["scored"]["ifd"] == 2
    assert facts["failed"] == {"longer than the context of 512 tokens": 1}
    assert "without a score: 1 longer than the context" in spelled(facts)


def test_a_ratio_that_is_not_finite_is_no_score(
    data: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(model: LocalModel, pairs: Mapping[str, Any], place: Path) -> dict[str, float]:
        return dict.fromkeys(pairs, float(place.name == "losses.jsonl"))

    monkeypatch.setattr(scoring, "mean_losses", made_up)
    facts = score(data, ["loss", "ifd"], tmp_path / "out", str(packed))
    assert facts["scored"] == {"loss": 3, "ifd": 0}
    assert facts["failed"] == {"ifd is not finite": 3}
    assert read_rows(tmp_path / "out" / "rows.jsonl")[0]["scores"] == {"loss": 1.0}


def test_answers_without_their_prompts_are_read_for_ratios_only(
    data: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    real = scoring.mean_losses

    def noted(model: LocalModel, pairs: Mapping[str, Any], place: Path) -> dict[str, float | str]:
        places.append(place.name)
        return real(model, pairs, place)

    monkeypatch.setattr(scoring, "mean_losses", noted)
    score(data, ["loss", "perplexity"], tmp_path / "out", str(packed))
    assert places == ["losses.jsonl"]
    score(data, ["loss", "ifd", "ifd-perplexity"], tmp_path / "more", str(packed))
    assert places[1:] == ["losses.jsonl", "losses-alone.jsonl"]


def test_new_scores_leave_nothing_of_those_before(data: Path, packed: Path, tmp_path: Path) -> None:
    old = {"loss": 9.0, "length": 9.0, "accuracy": 2.0}
    rows = [json.loads(line) | {"scores": old} for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(data, ["loss", "length"], tmp_path / "out", str(packed))
    found = [row["scores"] for row in read_rows(tmp_path / "out" / "rows.jsonl")]
    assert found[0].keys() == old.keys()
    assert found[0]["loss"] != 9.0
    assert found[2] == {"length": 1.0, "accuracy": 2.0}  # it does not fit, and has no loss


def test_rows_that_are_left_out_are_counted_of_the_whole_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = data.read_text().splitlines()[0]
    data.write_text(f"{data.read_text()}{first}\nbroken\n")
    facts = score(data, ["length"], tmp_path / "out", limit=2)
    assert (facts["rows"], facts["rejected"], facts["repeated"]) == (2, 1, 1)
    assert "1 of 5 rows left out: 1 not JSON" in capsys.readouterr().err
    assert "left out: 1 exact repeats of other rows" in spelled(facts)


def test_lengths_need_no_model(data: Path, tmp_path: Path) -> None:
    facts = score(data, ["length"], tmp_path / "out")
    assert facts["scored"] == {"length": 3}
    with pytest.raises(StropError, match="ifd needs a model"):
        score(data, ["length", "ifd"], tmp_path / "other")
    with pytest.raises(StropError, match="did you mean 'length'"):
        score(data, ["lenght"], tmp_path / "other")
    with pytest.raises(StropError, match="which scores"):
        score(data, [], tmp_path / "other")


def test_who_is_interrupted_goes_on(
    data: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = score(data, ["ifd"], tmp_path / "whole", str(packed))
    calls = []
    real = reading.loss_or_reason

    def broken(one: Scores | Failed) -> dict[str, object]:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(one)

    monkeypatch.setattr(reading, "loss_or_reason", broken)
    with pytest.raises(KeyboardInterrupt):
        score(data, ["ifd"], tmp_path / "out", str(packed))
    assert score(data, ["ifd"], tmp_path / "out", str(packed)) == wanted
    assert len(calls) == 5 + 2  # of three rows with and without their prompts
    whole = (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == whole


def test_rows_that_are_like_a_target(data: Path, packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.jsonl"
    target.write_text(json.dumps({"prompt": TEXTS[0][0], "completion": TEXTS[0][1]}) + "\n[]\n")
    score(data, ["target"], tmp_path / "out", str(packed), target)
    found = [row["scores"]["target"] for row in read_rows(tmp_path / "out" / "rows.jsonl")]
    assert found[0] == pytest.approx(1)
    assert max(found[1:]) < 0.9999
    [rejected] = read_rows(tmp_path / "out" / "target-rejected.jsonl")
    assert (rejected["line"], rejected["reason"]) == (2, "not an object")
    with pytest.raises(StropError, match="target needs a target: a file of rows"):
        score(data, ["target"], tmp_path / "other", str(packed))
    with pytest.raises(StropError, match="no target is needed for length: leave it out"):
        score(data, ["length"], tmp_path / "other", target=target)


@pytest.mark.usefixtures("one_thread")
def test_influence_on_a_target(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which type is faster for matrices as small as these changes from moment to moment.
    monkeypatch.setattr("strop.tuning.ranker.fastest_type", lambda model: "float32")
    target = tmp_path / "target.jsonl"
    target.write_text(json.dumps({"prompt": "Two and two?", "completion": "It is four."}))
    facts = score(data, ["influence", "length"], tmp_path / "out", str(tiny_model), target)
    rows = read_instructions(data).rows
    wanted = influence(
        str(tiny_model), rows, [Instruction("Two and two?", "It is four.")], tmp_path / "w"
    )
    found = read_rows(tmp_path / "out" / "rows.jsonl")
    assert [row["scores"]["influence"] for row in found[:2]] == [
        wanted[one.key] for one in rows[:2]
    ]
    assert found[2]["scores"] == {"length": 1.0}
    assert facts["scored"] == {"influence": 2, "length": 3}
    assert facts["failed"] == {"prompt longer than the context of 512 tokens": 1}


@pytest.mark.usefixtures("one_thread")
def test_rewards_are_what_a_pointwise_ranker_says(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.tuning.ranker.fastest_type", lambda model: "float32")
    pairs = preferences(tmp_path / "pairs.jsonl", 30, lambda n: ("+" * 6, "-" * 6))
    training = TrainingConfig(learning_rate=1e-2, batch=8)
    config = TuneConfig(NetworkConfig(rank=4, dtype="float32"), training, held_out=0.4)
    for kind in ("pointwise", "pairwise"):
        reads = RankerConfig(kind, 100, 100)
        tune_ranker(str(tiny_model), pairs, tmp_path / kind, reads, config)
    facts = score(data, ["reward"], tmp_path / "out", ranker=tmp_path / "pointwise")
    found = [row["scores"]["reward"] for row in read_rows(tmp_path / "out" / "rows.jsonl")]
    wanted = Ranker(tmp_path / "pointwise").scores([(one, [answer]) for one, answer in TEXTS])
    assert found == pytest.approx([value for [value] in wanted], abs=1e-6)
    assert facts["scored"] == {"reward": 3}  # the end of a long prompt is read
    with pytest.raises(StropError, match="pairwise: compares answers and scores none"):
        score(data, ["reward"], tmp_path / "other", ranker=tmp_path / "pairwise")
    with pytest.raises(StropError, match="is not a ranker"):
        score(data, ["reward"], tmp_path / "other", ranker=tiny_model)
    with pytest.raises(StropError, match="reward needs a ranker"):
        score(data, ["reward"], tmp_path / "other", str(tiny_model))
    assert not (tmp_path / "other").exists()
