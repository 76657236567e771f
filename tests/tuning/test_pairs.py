"""Tournaments, and pairs of ranked answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.data import read_json, read_rows
from strop.errors import StropError
from strop.tuning.answers import entering
from strop.tuning.judge import judge
from strop.tuning.pairs import PairsConfig, pairs
from strop.tuning.ranker import RankerConfig


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
