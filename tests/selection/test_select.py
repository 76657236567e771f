"""Rows that are chosen, and the reasons of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.data import read_rows
from strop.data.instructions import read_instructions
from strop.errors import StropError
from strop.models import load, pack
from strop.selection.diversity import distinct, unit_rows
from strop.selection.embed import embed
from strop.selection.select import (
    SPREADS,
    SelectConfig,
    in_order,
    length_matched,
    select,
    spelled,
)

NOUNS = [
    "stone",
    "river",
    "cloud",
    "horse",
    "window",
    "garden",
    "letter",
    "winter",
    "engine",
    "mirror",
    "candle",
    "bridge",
]


def rows() -> list[dict[str, Any]]:
    """Twelve rows; the last has no score, the one before nearly repeats the first."""
    found = []
    for number, noun in enumerate(NOUNS):
        found.append(
            {
                "instruction": f"Write about a {noun} and tell me all that you know of a {noun}",
                "output": f"The {noun} is what it is. " * (number + 1),
                "category": "even" if number % 2 == 0 else "odd",
                "scores": {"accuracy": number % 5 + 0.5, "ifd": 0.5 + 0.1 * number},
            }
        )
    found[10] = {**found[0], "output": found[0]["output"] + " "}
    found[11]["scores"] = {"ifd": 0.9}
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


def chosen(data: Path, **config: Any) -> tuple[list[int], dict[int, str]]:
    """Return the numbers of the rows that are kept, best first, and why others are not."""
    out = data.parent / f"out-{len(list(data.parent.iterdir()))}"
    select(data, out, SelectConfig(**config))
    number = {(row["instruction"], row["output"]): place for place, row in enumerate(rows())}
    kept = [number[row["instruction"], row["output"]] for row in read_rows(out / "kept.jsonl")]
    dropped = {
        number[row["instruction"], row["output"]]: row["reason"]
        for row in read_rows(out / "dropped.jsonl")
    }
    assert sorted([*kept, *dropped]) == list(range(12))
    return kept, dropped


def test_the_best_by_a_score(data: Path) -> None:
    kept, dropped = chosen(data, by="ifd", keep=3)
    assert kept == [9, 8, 7]
    assert dropped[10].startswith("repeats ") or dropped[0].startswith("repeats ")
    assert dropped[6] == "beyond the budget"
    assert chosen(data, by="-ifd", keep=2)[0][1] == 1
    assert chosen(data, by="accuracy*ifd", keep=1)[0] == [9]


def test_rules_drop_with_their_reasons(data: Path) -> None:
    kept, dropped = chosen(data, by="ifd", least={"accuracy": 2.5}, most={"ifd": 1.25})
    assert kept == [7, 4, 3, 2]
    assert dropped[11] == "has no accuracy"
    assert dropped[1] == "accuracy below 2.5"
    assert dropped[9] == "ifd above 1.25"
    assert 10 in chosen(data, by="ifd", duplicates=True)[0]


def test_quotas(data: Path) -> None:
    kept, dropped = chosen(data, by="ifd", per_category=2)
    assert kept == [9, 8, 7, 6]
    assert dropped[5] == "category odd is full"


def test_random_rows_follow_from_the_seed_and_not_from_the_order(data: Path) -> None:
    first = chosen(data, keep=5)[0]
    assert first != chosen(data, keep=5, seed=1)[0]
    lines = data.read_text().splitlines()
    data.write_text("\n".join(lines[::-1]))
    assert chosen(data, keep=5)[0] == first


def test_rows_that_differ(data: Path, tiny_model: Path) -> None:
    model = str(tiny_model)
    with pytest.raises(StropError, match="k-center needs a model"):
        SelectConfig(by="k-center")
    texts = [(row["instruction"], row["output"]) for row in rows()]
    vectors = embed(load(model), texts, data.parent / "embeddings")
    units = unit_rows(vectors[:10])
    cosines = units @ units.T
    most = float(np.median(cosines))
    kept, dropped = chosen(data, by="ifd", distinct=most, model=model)
    assert kept[0] == 9
    assert any(reason.startswith("is like ") for reason in dropped.values())
    first = [place for place in kept if place < 10]
    assert all(cosines[a, b] <= most for a in first for b in first if a != b)


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("packed") / "tiny"
    pack(str(tiny_model), "bfp8", place)
    return str(place)


@pytest.mark.parametrize("by", list(SPREADS))
def test_rules_take_from_the_order_by_which_rows_differ(data: Path, packed: str, by: str) -> None:
    every = read_instructions(data).rows
    texts = [(one.prompt, one.completion) for one in every]
    vectors = embed(load(packed), texts, data.parent / "embeddings")
    kept, dropped = chosen(data, by=by, keep=4, model=packed)
    reasons = sorted(dropped.values())
    assert reasons[:7] == ["beyond the budget"] * 7
    assert reasons[7].startswith("repeats ")
    # Those that repeat none, in the order of the seed: the first is where k-center starts.
    shuffled = [every.index(one) for one in in_order(every, SelectConfig())]
    left = [place for place in shuffled if not dropped.get(place, "").startswith("repeats ")]
    order = [left[place] for place in SPREADS[by](vectors[left], len(left))]
    assert kept == order[:4]
    assert order[:4] != left[:4]
    # What quotas and other rules take out is replaced by the next in that order.
    apart = distinct(vectors, order, 0.9)[0].tolist()
    assert apart[:5] != order[:5]
    assert chosen(data, by=by, keep=5, distinct=0.9, model=packed)[0] == apart[:5]
    full = [{**row, "category": place in order[:3]} for place, row in enumerate(rows())]
    data.write_text("".join(json.dumps(row) + "\n" for row in full))
    wanted = [*order[:2], *order[3:6]]
    assert chosen(data, by=by, keep=5, per_category=3, model=packed)[0] == order[:5]
    assert chosen(data, by=by, keep=4, per_category=2, model=packed)[0] == wanted[:4]


def test_the_report_says_what_changed(data: Path, tmp_path: Path) -> None:
    facts = select(data, tmp_path / "out", SelectConfig(by="ifd", keep=3))
    report = (tmp_path / "out" / "report.md").read_text()
    for part in ("3 of 12 rows are kept", "| words of the answer | kept |", "| even |", "ifd 1.2"):
        assert part in report
    [first, *_] = read_rows(tmp_path / "out" / "rows.jsonl")
    assert first == {"prompt": rows()[9]["instruction"], "completion": rows()[9]["output"]}
    assert facts["dropped"] == {"beyond the budget": 8, "repeats another row": 1}
    assert "3 of 12 rows kept" in spelled(facts)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"by": "acuracy"}, "did you mean 'accuracy'"),
        ({"least": {"reward": 1.0}}, "unknown score 'reward'"),
        ({"by": "ifd", "least": {"ifd": 9.0}}, "no row is left; of 12, 12: ifd below 9"),
        ({"keep": -1}, "not be negative"),
        ({"by": "-random"}, "-random: only a score can be turned round"),
        ({"least": {"ifd": float("nan")}}, "must be a number"),
    ],
)
def test_what_cannot_be_chosen_is_said(data: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(StropError, match=said):
        chosen(data, **config)


def test_every_row_of_the_file_is_accounted_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {**rows()[0], "scores": None}
    lines = [data.read_text(), json.dumps(rows()[3]), "\n", json.dumps(bad), "\nbroken\n"]
    data.write_text("".join(lines))
    facts = select(data, tmp_path / "out", SelectConfig(by="ifd", keep=3))
    assert (facts["rows"], facts["rejected"], facts["repeated"]) == (12, 2, 1)
    assert facts["kept"] + sum(facts["dropped"].values()) == 12
    found = read_rows(tmp_path / "out" / "rejected.jsonl")
    assert [(one["line"], one["reason"]) for one in found] == [
        (14, "scores is not an object"),
        (15, "not JSON"),
    ]
    assert "2 of 15 rows left out" in capsys.readouterr().err
    assert "1 left out: exact repeats of other rows" in spelled(facts)
    said = "do not count: 2 could not be read and 1 repeat others exactly."
    assert said in (tmp_path / "out" / "report.md").read_text()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(0, 5), st.data())
def test_length_matched_rows_are_different_and_as_long(
    lengths: list[int], seed: int, draw: st.DataObject
) -> None:
    wanted = draw.draw(st.lists(st.sampled_from(lengths), max_size=len(lengths), unique=True))
    found = length_matched(lengths, wanted, seed)
    assert len(set(found)) == len(found) == len(wanted)
    assert sorted(lengths[place] for place in found) == sorted(wanted)  # the same ones exist


def test_length_matched_rows_are_random_among_equals() -> None:
    lengths = [1.0] * 50 + [9.0] * 50
    counts = np.zeros(100)
    for seed in range(200):
        counts[length_matched(lengths, [9.0] * 10, seed)] += 1
    assert counts[:50].sum() == 0
    assert counts[50:].min() > 20  # 40 are expected, with a deviation of 5.7
    with pytest.raises(StropError, match="101 rows are wanted of 100"):
        length_matched(lengths, [1.0] * 101, 0)
