"""The stages of tuning on a tiny model: rows, manifests, and going on where it was stopped."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tuning.rows import preferences

from strop.data import prompt_key, read_json, read_rows, write_rows
from strop.errors import StropError, StropFailure
from strop.models import load, pack
from strop.models.adapters import read_adapter
from strop.training.network import NetworkConfig
from strop.training.schedule import TrainingConfig
from strop.tuning import known, ranker
from strop.tuning.answers import entering
from strop.tuning.fit import TuneConfig
from strop.tuning.judge import judge
from strop.tuning.pairs import PairsConfig, pairs
from strop.tuning.rank import rank
from strop.tuning.ranker import Ranker, RankerConfig
from strop.tuning.sample import SampleConfig, sample
from strop.tuning.stage import run_stage
from strop.tuning.tune import tune_preference, tune_ranker, tune_sft

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))


def examples(path: Path, count: int = 30) -> Path:
    rows = [{"prompt": f"q{number}", "completion": "++++"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(rate: float = 1e-2, epochs: float = 2, **network: Any) -> TuneConfig:
    training = TrainingConfig(learning_rate=rate, epochs=epochs, batch=8)
    # Which type is faster for matrices as small as these changes from moment to moment.
    network = {"dtype": "float32"} | network
    return TuneConfig(NetworkConfig(**network), training, held_out=0.4)


def manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(directory / "manifest.json")
    return found


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


def test_a_stage_is_done_once(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = examples(tmp_path / "examples.jsonl")
    first = tune_sft(str(tiny_model), data, tmp_path / "out", config())
    written = manifest(tmp_path / "out")
    assert not (tmp_path / "out.work").exists()
    assert tune_sft(str(tiny_model), data, tmp_path / "out", config()) == first
    assert "already done" in capsys.readouterr().err
    assert manifest(tmp_path / "out") == written
    tune_sft(str(tiny_model), data, tmp_path / "out", config(2e-3))
    assert manifest(tmp_path / "out")["hash"] != written["hash"]
    (tmp_path / "out" / "history.jsonl").write_text("")
    assert tune_sft(str(tiny_model), data, tmp_path / "out", config(2e-3))
    assert (tmp_path / "out" / "history.jsonl").stat().st_size


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


def test_who_takes_part_in_a_ranking() -> None:
    row = {
        "candidates": ["a", "a ", "", "b", "c"],
        "finish": ["end", "end", "end", "length", "stop"],
    }
    assert entering(row) == [0, 4]


def test_a_tournament_has_one_comparison_less_than_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ranker that knows the numbers finds the largest, and every loser lost once."""
    from strop.tuning import rank as module

    class Larger:
        config = RankerConfig("pairwise")

        def prefer(self, rows: Any) -> list[float]:
            return [0.9 if float(a) > float(b) else 0.1 for _, a, b in rows]

    random = np.random.default_rng(0)
    rows = [
        {"prompt": "p", "candidates": [str(n) for n in random.permutation(20)[:size]]}
        for size in (1, 2, 7, 8)
    ]
    entrants = [list(range(len(row["candidates"]))) for row in rows]
    for row, matches in zip(rows, module.tournaments(Larger(), rows, entrants), strict=True):  # type: ignore[arg-type]
        numbers = [int(one) for one in row["candidates"]]
        losers = [b if p > 0.5 else a for a, b, p in matches]
        assert len(matches) == len(numbers) - 1 == len(set(losers))
        [winner] = set(range(len(numbers))) - set(losers)
        assert numbers[winner] == max(numbers)


def ranked(path: Path, **columns: Any) -> Path:
    row = {
        "prompt": "p",
        "candidates": ["a", "b", "c"],
        "tokens": [[1], [2], [3]],
        "finish": ["end"] * 3,
    }
    (path / "ranked").mkdir()
    (path / "ranked" / "rows.jsonl").write_text(json.dumps(row | columns) + "\n")
    return path / "ranked"


def test_pairs_of_a_tournament(tmp_path: Path) -> None:
    place = ranked(tmp_path, comparisons=[[0, 1, 0.2], [1, 2, 0.51]], reference="given")
    assert pairs([place, place], tmp_path / "out")["pairs"] == 1
    [row] = read_rows(tmp_path / "out" / "rows.jsonl")
    assert (row["chosen"], row["rejected"], row["reference"]) == ("b", "a", "given")
    assert (row["chosen_tokens"], row["rejected_tokens"]) == ([2], [1])
    assert read_json(tmp_path / "out" / "manifest.json")["facts"]["by_source"] == [1, 0]
    out = read_rows(tmp_path / "out" / "rejected.jsonl")
    assert [(one["line"], one["reason"]) for one in out] == [
        (1, "tie"),
        (1, "came before"),
        (1, "tie"),
    ]
    best = PairsConfig(least_margin=0, reference="best")
    assert pairs([place], tmp_path / "best", best)["pairs"] == 2
    assert {row["reference"] for row in read_rows(tmp_path / "best" / "rows.jsonl")} == {"b"}


def test_pairs_of_values(tmp_path: Path) -> None:
    place = ranked(tmp_path, values=[0.1, None, 0.8])
    assert pairs([place], tmp_path / "out")["pairs"] == 1
    [row] = read_rows(tmp_path / "out" / "rows.jsonl")
    assert (row["chosen"], row["chosen_value"], row["rejected_value"]) == ("c", 0.8, 0.1)


def test_pairs_that_cannot_be_made(tmp_path: Path) -> None:
    place = ranked(tmp_path)
    with pytest.raises(StropError, match="run strop rank first"):
        pairs([place], tmp_path / "out")
    (place / "rows.jsonl").write_text('{"prompt": "p", "candidates": ["a"], "values": [0.5]}\n')
    with pytest.raises(StropError, match="no pair is left"):
        pairs([place], tmp_path / "out")
    for wrong in ({"reference": "worst"}, {"least_margin": 1}, {"pairs": -1}):
        with pytest.raises(StropError):
            PairsConfig(**wrong)


def test_a_judge_needs_something_to_judge_by(tmp_path: Path) -> None:
    place = ranked(tmp_path)
    with pytest.raises(StropError, match="1 prompts in common"):
        judge(place, place, tmp_path / "out")
    lines = [
        {"prompt": f"p{n}", "candidates": ["a"], "tokens": [[1]], "finish": ["end"]}
        for n in range(3)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(StropError, match="nothing to judge by"):
        judge(place, place, tmp_path / "out")
    (place / "rows.jsonl").write_text('{"prompt": "p"}\n')
    with pytest.raises(StropError, match="no column 'candidates'"):
        judge(place, place, tmp_path / "out")


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


def test_a_ranker_that_is_an_ordinary_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(StropError, match=r"ranker\.json"):
        Ranker(tiny_model)
