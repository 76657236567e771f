"""The stages of tuning on a tiny model: what they make, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tuning.rows import config, examples, preferences

from strop.data import prompt_key, read_json, read_rows
from strop.errors import StropError, StropFailure
from strop.models import load, pack
from strop.stage import run_stage
from strop.training.network import NetworkConfig
from strop.training.schedule import TrainingConfig
from strop.tuning.fit import TuneConfig
from strop.tuning.judge import judge
from strop.tuning.pairs import PairsConfig, pairs
from strop.tuning.rank import rank
from strop.tuning.ranker import Ranker, RankerConfig
from strop.tuning.sample import SampleConfig, sample
from strop.tuning.tune import tune_preference, tune_ranker, tune_sft

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache")


def test_from_examples_to_a_verdict(tiny_model: Path, tmp_path: Path) -> None:
    """All stages, one after another, as a recipe or a user runs them."""
    data = examples(tmp_path / "examples.jsonl")
    facts = tune_sft(str(tiny_model), data, tmp_path / "sft", config(3e-3))
    assert facts["effect"]["loss"]["difference"]["estimate"] < 0
    assert facts["kl_to_start"]["estimate"] > 0

    drawn = sample(str(tmp_path / "sft"), data, tmp_path / "cand", SampleConfig(6, max_tokens=12))
    assert drawn["answers"] == 6 * 30
    rows = read_rows(tmp_path / "cand" / "rows.jsonl")
    assert rows[0]["reference"] == "++++"
    tokenizer = load(str(tiny_model)).tokenizer
    assert tokenizer.decode(rows[0]["tokens"][0]) == rows[0]["candidates"][0]

    # More plus signs are better.
    random = np.random.default_rng(0)

    def counted(number: int) -> tuple[str, str]:
        more, fewer = sorted(random.choice(9, 2, replace=False))[::-1]
        return tuple(
            "".join(random.permutation(["+"] * n + ["-"] * (9 - n))) for n in (more, fewer)
        )  # type: ignore[return-value]

    taste = preferences(tmp_path / "taste.jsonl", 60, counted)
    tune_ranker(
        str(tiny_model),
        taste,
        tmp_path / "ranker",
        RankerConfig("pointwise", 100, 100),
        config(1e-2),
    )
    ranked = rank(tmp_path / "ranker", tmp_path / "cand", tmp_path / "ranked")
    assert ranked["ranked"] + ranked["left_out"] == 180

    made = pairs([tmp_path / "ranked", taste], tmp_path / "pairs", PairsConfig(least_margin=0.0))
    assert sum(made["by_source"]) == made["pairs"]
    rows = read_rows(tmp_path / "pairs" / "rows.jsonl")
    assert all(
        row["chosen_value"] >= row["rejected_value"] for row in rows if "chosen_value" in row
    )

    sources = [tmp_path / "pairs"]
    sft = str(tmp_path / "sft")
    tuned = tune_preference(sft, sources, tmp_path / "slic", "slic", None, config(3e-3))
    assert tuned["effect"]["margin"]["difference"]["estimate"] > 0

    greedy = SampleConfig(1, temperature=0.0, max_tokens=12)
    fresh = examples(tmp_path / "fresh.jsonl", 50)  # the first 30 are prompts of before
    for name in ("sft", "slic"):
        sample(str(tmp_path / name), fresh, tmp_path / f"{name}-answers", greedy)
    answers = [tmp_path / f"{name}-answers" for name in ("slic", "sft")]
    with pytest.raises(StropError, match="ranked the pairs that a model was trained on"):
        judge(*answers, tmp_path / "verdict", tmp_path / "ranker")
    other = preferences(tmp_path / "other.jsonl", 60, counted, "other")
    reads = RankerConfig("pairwise", 100, 100)
    tune_ranker(str(tiny_model), other, tmp_path / "judge", reads, config(1e-2))
    verdict = judge(*answers, tmp_path / "verdict", tmp_path / "judge")
    used = set(read_json(tmp_path / "slic" / "origins.json")["prompts"])
    assert verdict["prompts"] + verdict["trained_on"] == 50
    assert verdict["trained_on"] == len(
        used & {prompt_key(row["prompt"]) for row in read_rows(fresh)}
    )
    assert {"win_rate", "length_controlled", "overlap", "tokens", "repeated"} <= verdict.keys()
    again = judge(*answers, tmp_path / "verdict2")
    assert again["overlap"] == verdict["overlap"]


@pytest.mark.parametrize("loss", ["dpo", "kto", "slic-list", "best-of-n", "slic-margin"])
def test_every_kind_of_loss_trains_from_the_same_rows(
    tiny_model: Path, tmp_path: Path, loss: str
) -> None:
    rows = [
        {
            "prompt": f"q{number}",
            "chosen": "+" * (2 + number % 3),
            "rejected": "-" * (2 + number % 3),
            "chosen_value": 0.9,
            "rejected_value": 0.2,
        }
        for number in range(40)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = tune_preference(str(tiny_model), [data], tmp_path / "t", loss, None, config(1e-3, 1))
    assert facts["effect"]["loss"]["difference"]["estimate"] < 0
    history = read_rows(tmp_path / "t" / "history.jsonl")
    assert {row["kind"] for row in history} == {"step", "evaluation"}
    assert (tmp_path / "t" / "curves.svg").read_text().startswith("<svg")


def test_nothing_that_is_not_of_a_stage_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("Dear")
    with pytest.raises(StropError, match="was not made by this command"):
        run_stage("sft", tmp_path / "out", {}, {}, lambda *_: {})
    run_stage("pairs", tmp_path / "pairs", {}, {}, lambda *_: {})
    with pytest.raises(StropError, match="was not made by this command"):
        run_stage("sft", tmp_path / "pairs", {}, {}, lambda *_: {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(StropError, match="was not made by this command"):
        run_stage("sft", tmp_path / "file", {}, {}, lambda *_: {})


def test_a_packed_model_is_known_by_what_was_tuned(tiny_model: Path, tmp_path: Path) -> None:
    data = examples(tmp_path / "examples.jsonl")
    tune_sft(str(tiny_model), data, tmp_path / "sft", config())
    pack(str(tmp_path / "sft"), "bfp8", tmp_path / "packed")
    assert (tmp_path / "packed" / "origins.json").read_bytes() == (
        tmp_path / "sft" / "origins.json"
    ).read_bytes()
    greedy = SampleConfig(1, temperature=0.0, max_tokens=5)
    fresh = examples(tmp_path / "fresh.jsonl", 40)
    for name, model in (("after", tmp_path / "packed"), ("before", tiny_model)):
        sample(str(model), fresh, tmp_path / name, greedy)
    files = [tmp_path / name / "rows.jsonl" for name in ("after", "before")]
    used = len(read_json(tmp_path / "sft" / "origins.json")["prompts"])
    assert judge(*files, tmp_path / "verdict")["trained_on"] == used > 0


def test_rows_that_are_left_out_have_their_lines(tiny_model: Path, tmp_path: Path) -> None:
    data = examples(tmp_path / "examples.jsonl", 20)
    lines = data.read_text().splitlines()
    lines[3:3] = ["", "no JSON", json.dumps({"prompt": "x" * 600, "completion": "y"})]
    data.write_text("\n".join(lines))
    tune_sft(str(tiny_model), data, tmp_path / "sft", config())
    rejected = read_rows(tmp_path / "sft" / "rejected.jsonl")
    assert [row["line"] for row in rejected] == [5, 6]


def test_a_whole_model_can_be_trained(tiny_model: Path, tmp_path: Path) -> None:
    data = examples(tmp_path / "examples.jsonl")
    facts = tune_sft(str(tiny_model), data, tmp_path / "out", config(1e-3, rank=0))
    assert facts["effect"]["loss"]["difference"]["estimate"] < 0
    assert load(str(tmp_path / "out")).tokenizer.template is not None
    with pytest.raises(StropError, match="in float32 only"):
        config(rank=0, dtype="bfloat16")


def test_kto_takes_answers_of_both_held_out_halves(tiny_model: Path, tmp_path: Path) -> None:
    """Each half may have one prompt; the other answer of an item is of another prompt."""
    data = preferences(tmp_path / "p.jsonl", 12, lambda number: ("yes", "no"))
    training = TrainingConfig(learning_rate=1e-3, batch=8)
    one = TuneConfig(NetworkConfig(dtype="float32"), training, held_out=0.17)
    facts = tune_preference(str(tiny_model), [data], tmp_path / "t", "kto", None, one)
    assert facts["followed_prompts"] == facts["tested_prompts"] == 1


def test_a_loss_that_is_not_finite_stops_and_keeps_the_items(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = preferences(tmp_path / "p.jsonl", 20, lambda n: ("+++", "---"))
    with pytest.raises(StropFailure, match="not finite: lower the learning rate"):
        tune_preference(str(tiny_model), [data], tmp_path / "t", "slic", None, config(1e30, 20))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("", "b")], "empty chosen"),
        ([("a", "a")], "chosen and rejected are equal"),
        ([("a" * 600, "b")], "prompt and answer longer than the context of 512 tokens"),
        ([("a", "b")], "too few to hold out"),
    ],
)
def test_bad_data_is_one_line(
    tiny_model: Path, tmp_path: Path, rows: list[tuple[str, str]], said: str
) -> None:
    data = preferences(tmp_path / "p.jsonl", len(rows), lambda n: rows[n])
    with pytest.raises(StropError, match=said):
        tune_preference(str(tiny_model), [data], tmp_path / "t", config=config())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("t")] == []


def test_places_that_hold_something_else_are_one_line(tiny_model: Path, tmp_path: Path) -> None:
    said = "is a directory without rows.jsonl"
    with pytest.raises(StropError, match=said):
        tune_preference(str(tiny_model), [tmp_path], tmp_path / "t")
    with pytest.raises(StropError, match=said):
        pairs([tmp_path], tmp_path / "t")
    data = examples(tmp_path / "examples.jsonl")
    with pytest.raises(StropError, match="is not a ranker"):
        rank(tiny_model, data, tmp_path / "t")


def test_settings_that_do_not_apply_are_one_line(tiny_model: Path, tmp_path: Path) -> None:
    data = preferences(tmp_path / "p.jsonl", 9, lambda n: ("a", "b"))
    for loss, settings, said in (
        ("slic", {"beta": 1.0}, "the loss slic has no setting 'beta': its settings are margin"),
        ("slick", {}, "unknown loss 'slick': did you mean 'slic'"),
        ("slic", {"margin": float("nan")}, "out of range"),
        ("slic-margin", {}, "needs chosen_value"),
    ):
        with pytest.raises(StropError, match=said):
            tune_preference(str(tiny_model), [data], tmp_path / "t", loss, settings, config())


def test_a_ranker_that_is_an_ordinary_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(StropError, match=r"ranker\.json"):
        Ranker(tiny_model)
