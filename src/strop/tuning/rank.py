"""Which candidates a ranker prefers: a tournament, or a score for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.console import say
from strop.data import read_rows, sha256_file, write_rows
from strop.stage import ROWS, Facts, rows_path, run_stage
from strop.tuning.answers import check_samples, entering, every, prompt_of
from strop.tuning.origins import Origins, origins_of, ranker_hash
from strop.tuning.ranker import Ranker


@dataclass(frozen=True)
class Match:
    """Two candidates that are to be compared."""

    row: int
    first: int
    second: int


def rank(ranker: Path, samples: Path, output: Path, work: Path | None = None) -> Facts:
    """Rank the candidates of a sampling stage; the rows get `comparisons`, or `values` too.

    A pairwise ranker lets candidates meet in a tournament (SLiC-HF, section 2.3): of m, m - 1
    comparisons, each [first, second, probability that the first is better]. A pointwise ranker
    gives each candidate a value, the probability that it is good. Candidates that were cut, or are
    equal to one before, take no part.
    """
    path = rows_path(samples, output)
    digest = ranker_hash(ranker)
    inputs = {"ranker": digest, "samples": sha256_file(path)}

    def make(directory: Path, place: Path) -> Facts:
        rows = read_rows(path)
        check_samples(rows, path)
        loaded = Ranker(ranker, place)
        entrants = [entering(row) for row in rows]
        if loaded.config.kind == "pairwise":
            compared = tournaments(loaded, rows, entrants)
            ranked = [{**row, "comparisons": own} for row, own in zip(rows, compared, strict=True)]
        else:
            ranked = [
                {**row, "values": own}
                for row, own in zip(rows, all_values(loaded, rows, entrants), strict=True)
            ]
        write_rows(directory / ROWS, ranked)
        (origins_of([samples]) | Origins(rankers=frozenset([digest]))).write(directory)
        left_out = sum(len(row["candidates"]) for row in rows) - sum(map(len, entrants))
        if left_out:
            say(f"{left_out} candidates take no part: cut, empty, or equal to another")
        return {
            "prompts": len(rows),
            "kind": loaded.config.kind,
            "dtype": loaded.dtype,
            "ranked": sum(map(len, entrants)),
            "left_out": left_out,
        }

    return run_stage("rank", output, {"ranker": str(ranker)}, inputs, make, work)


def all_values(
    ranker: Ranker, rows: Sequence[Mapping[str, Any]], entrants: Sequence[Sequence[int]]
) -> list[list[float | None]]:
    """Return the value of each candidate of each row, None for those that take no part."""
    asked = [number for number, places in enumerate(entrants) if places]
    texts = [
        (prompt_of(rows[number]), [rows[number]["candidates"][i] for i in entrants[number]])
        for number in asked
    ]
    found: list[list[float | None]] = [[None for _ in every(row)] for row in rows]
    for number, scores in zip(asked, ranker.scores(texts), strict=True):
        for place, value in zip(entrants[number], scores, strict=True):
            found[number][place] = value
    return found


def tournaments(
    ranker: Ranker, rows: Sequence[Mapping[str, Any]], entrants: Sequence[Sequence[int]]
) -> list[list[tuple[int, int, float]]]:
    """Let the candidates of each row meet until one is left; the rounds of all rows together."""
    standing = [list(places) for places in entrants]
    found: list[list[tuple[int, int, float]]] = [[] for _ in rows]
    while any(len(places) > 1 for places in standing):
        matches = [
            Match(row, *places[at : at + 2])
            for row, places in enumerate(standing)
            for at in range(0, len(places) - 1, 2)
        ]
        texts = [
            (
                prompt_of(rows[one.row]),
                *(rows[one.row]["candidates"][i] for i in (one.first, one.second)),
            )
            for one in matches
        ]
        losers: list[set[int]] = [set() for _ in rows]
        for one, probability in zip(matches, ranker.prefer(texts), strict=True):
            found[one.row].append((one.first, one.second, probability))
            losers[one.row].add(one.second if probability >= 0.5 else one.first)
        standing = [
            [place for place in places if place not in out]
            for places, out in zip(standing, losers, strict=True)
        ]
    return found
