"""Preference pairs from ranked candidates, alone or mixed with given ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop.data import (
    Rejected,
    prompt_key,
    read_preferences,
    read_rows,
    report_rejected,
    sha256_file,
    write_rows,
)
from strop.errors import StropError, unknown_name
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage
from strop.tuning.answers import every, prompt_of
from strop.tuning.origins import origins_of

REFERENCES = ("given", "best")


@dataclass(frozen=True)
class PairsConfig:
    """How pairs are made of ranked candidates."""

    least_margin: float = 0.05  #: of probabilities, below which two candidates are a tie
    reference: str = "given"  #: what is learned to write: the data's answer, or the best candidate
    pairs: int = 0  #: from a prompt whose candidates have values; 0: as many as candidates less one
    seed: int = 0  #: for which of them

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.reference not in REFERENCES:
            raise unknown_name("reference", self.reference, REFERENCES)
        if not 0 <= self.least_margin < 1:
            raise StropError(f"least_margin must be from 0 to 1, not {self.least_margin}")
        if self.pairs < 0:
            raise StropError(f"pairs must not be negative: {self.pairs}")


def pairs(
    sources: Sequence[Path],
    output: Path,
    config: PairsConfig | None = None,
    columns: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> Facts:
    """Make preference pairs of several sources, one after another.

    A source is the output of a ranking stage, or a file of preferences, which are taken as they
    are (SLiC-HF's "direct"); `columns` are those of the latter. Ties, and pairs that came before,
    are left out with a reason. Raises StropError if nothing is left.
    """
    config = config or PairsConfig()
    paths = [rows_path(one, output) for one in sources]
    inputs = {str(number): sha256_file(path) for number, path in enumerate(paths)}
    settings = {**asdict(config), "columns": dict(columns or {})}

    def make(directory: Path, place: Path) -> Facts:
        found: list[dict[str, Any]] = []
        rejected: list[Rejected] = []
        seen: set[tuple[str, str, str]] = set()
        counts: list[int] = []
        for path in paths:
            for line, row in read(path, config, columns, rejected):
                key = (prompt_key(prompt_of(row)), row["chosen"], row["rejected"])
                if key in seen:
                    rejected.append(Rejected(line, "came before", row))
                    continue
                seen.add(key)
                found.append(row)
            counts.append(len(found) - sum(counts))
        report_rejected(rejected, len(found) + len(rejected), directory / REJECTED)
        if not found:
            raise StropError("no pair is left: all are ties or came before")
        write_rows(directory / ROWS, found)
        origins_of(sources).write(directory)
        return {
            "pairs": len(found),
            "prompts": len({prompt_key(prompt_of(row)) for row in found}),
            "rejected": len(rejected),
            "by_source": counts,
            **lengths(found),
        }

    return run_stage("pairs", output, settings, inputs, make, work)


def read(
    path: Path,
    config: PairsConfig,
    columns: Mapping[str, str] | None,
    rejected: list[Rejected],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the pairs of one source, with their lines; what is left out is added to `rejected`."""
    if path.name == ROWS and (rows := read_rows(path)) and "candidates" in rows[0]:
        for number, row in enumerate(rows, start=1):
            for pair in of_candidates(row, number, config, rejected):
                yield number, pair
        return
    records = read_preferences(path, None if path.name == ROWS else columns)
    rejected += records.rejected
    for line, one in zip(records.lines, records.rows, strict=True):
        values = asdict(one)
        tokens, scores = values.pop("tokens"), values.pop("values")
        extra = {"chosen_tokens": tokens[0], "rejected_tokens": tokens[1]} if tokens else {}
        extra |= {"chosen_value": scores[0], "rejected_value": scores[1]} if scores else {}
        yield line, {key: value for key, value in values.items() if value is not None} | extra


def of_candidates(
    row: Mapping[str, Any], number: int, config: PairsConfig, rejected: list[Rejected]
) -> Iterator[dict[str, Any]]:
    """Yield the pairs of one prompt's candidates, better first."""
    decided = list(decisions(row, config, number))
    for better, worse, margin in decided:
        texts = row["candidates"][better], row["candidates"][worse]
        if margin < config.least_margin:
            tie = {"prompt": row["prompt"], "candidates": texts, "margin": margin}
            rejected.append(Rejected(number, "tie", tie))
            continue
        pair: dict[str, Any] = {"prompt": row["prompt"], "chosen": texts[0], "rejected": texts[1]}
        if config.reference == "best":
            pair["reference"] = row["candidates"][best_of(row, decided)]
        elif "reference" in row:
            pair["reference"] = row["reference"]
        pair["chosen_tokens"], pair["rejected_tokens"] = (
            row["tokens"][place] for place in (better, worse)
        )
        if "values" in row:
            pair["chosen_value"], pair["rejected_value"] = (
                row["values"][place] for place in (better, worse)
            )
        yield pair


def best_of(row: Mapping[str, Any], decided: Sequence[tuple[int, int, float]]) -> int:
    """Return the candidate with the highest value; or the winner of the tournament."""
    if "values" in row:
        return max(
            every(row),
            key=lambda place: (row["values"][place] is not None, row["values"][place] or 0.0),
        )
    losers = {worse for _, worse, _ in decided}
    return next(better for better, _, _ in decided if better not in losers)


def decisions(
    row: Mapping[str, Any], config: PairsConfig, number: int
) -> Iterator[tuple[int, int, float]]:
    """Yield (better, worse, margin of probabilities) for a row's pairs."""
    if "comparisons" in row:
        for first, second, probability in row["comparisons"]:
            margin = abs(2 * probability - 1)
            yield (first, second, margin) if probability >= 0.5 else (second, first, margin)
        return
    if "values" not in row:
        raise StropError("rows with candidates, but not ranked: run strop rank first")
    values = row["values"]
    ranked = [place for place in every(row) if values[place] is not None]
    possible = [(a, b) for at, a in enumerate(ranked) for b in ranked[at + 1 :]]
    wanted = min(config.pairs or len(ranked) - 1, len(possible))
    random = np.random.default_rng((config.seed, number))
    for index in random.permutation(len(possible))[: max(wanted, 0)]:
        a, b = possible[int(index)]
        better, worse = (a, b) if values[a] >= values[b] else (b, a)
        yield better, worse, values[better] - values[worse]


def lengths(rows: Sequence[Mapping[str, Any]]) -> Facts:
    """Return the mean characters of chosen and rejected answers; drifts of length begin there."""
    return {
        f"{side}_characters": sum(len(row[side]) for row in rows) / len(rows)
        for side in ("chosen", "rejected")
    }
