"""Scores of examples that need no rater: lengths, losses, and what the instruction does for them.

OUTPUT/rows.jsonl       the rows with their scores; a row that could not be scored has none
OUTPUT/scores.jsonl     the scores, in the order in which they were done
OUTPUT/rejected.jsonl   rows that could not be read
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.console import progress
from strop.data import report_rejected, sha256_file, write_rows
from strop.data.instructions import Instruction, read_instructions, shown, unique
from strop.data.journal import Journal
from strop.errors import StropError, unknown_name
from strop.lm import Failed, LocalModel, Scores
from strop.models import load
from strop.models.identity import model_identity
from strop.models.interface import Model
from strop.selection.diversity import near_targets
from strop.selection.embed import embed
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage

JOURNAL, TARGET = "scores.jsonl", "target"
LOT = 32  #: rows whose scores are computed together, and could be lost together

Losses = tuple[float, float]  #: mean loss of an answer's token after its prompt, and without it


@dataclass(frozen=True)
class Score:
    """A number that an example has."""

    what: str  #: in a few words
    of_row: Callable[[Instruction], float] | None = None  #: from the text alone
    of_losses: Callable[[Losses], float] | None = None  #: from a model's losses

    @property
    def needs_model(self) -> bool:
        """Tell whether a model has to read the row."""
        return self.of_row is None


def words(one: Instruction) -> float:
    """Return the number of words of an answer."""
    return float(len(one.completion.split()))


def prompt_words(one: Instruction) -> float:
    """Return the number of words of a prompt."""
    return float(len(shown(one.prompt).split()))


#: By name. The two ratios of Cherry (Li et al. 2024, arXiv 2308.12032, equation 4) and of
#: Superfiltering (Li et al. 2024, arXiv 2402.00530, section 3.1) both go by the name IFD and are
#: not the same: one divides losses, the other perplexities.
SCORES: dict[str, Score] = {
    "length": Score("words of the answer", of_row=words),
    "prompt-length": Score("words of the prompt", of_row=prompt_words),
    "loss": Score("mean loss of a token of the answer", of_losses=lambda one: one[0]),
    "perplexity": Score("its exponential", of_losses=lambda one: math.exp(one[0])),
    "ifd": Score(
        "loss of the answer over its loss without the prompt (Cherry)",
        of_losses=lambda one: one[0] / one[1] if one[1] else math.inf,
    ),
    "ifd-perplexity": Score(
        "perplexity of the answer over that without the prompt (Superfiltering)",
        of_losses=lambda one: math.exp(one[0] - one[1]),
    ),
    TARGET: Score("largest cosine to a row of the target, by a model's states"),
}


def score(
    data: Path,
    names: Sequence[str],
    output: Path,
    model: str | None = None,
    target: Path | None = None,
    limit: int = 0,
    work: Path | None = None,
) -> Facts:
    """Add scores to the rows of a file of instructions, or to the first so many of them.

    The model reads each answer after its prompt, in its chat template, and alone, without one. For
    the score `target` it also reads the rows of another file. Raises StropError for unknown scores,
    and for ones that need a model, or a target, if there is none.
    """
    wanted = {name: known(name) for name in names}
    if not wanted:
        raise StropError(f"which scores? There are {', '.join(SCORES)}")
    needy = [name for name, one in wanted.items() if one.needs_model]
    if needy and model is None:
        raise StropError(f"{needy[0]} needs a model that reads the rows")
    if (TARGET in wanted) != (target is not None):
        raise StropError("the score target and a file of target rows need each other")
    path = rows_path(data)
    records = read_instructions(path)
    rows = unique(records.rows, path)[: limit or None]
    inputs = {"data": sha256_file(path)}
    if needy and model is not None:
        inputs["model"] = model_identity(model)
    if target is not None:
        inputs["target"] = sha256_file(target)
    settings = {"scores": sorted(wanted), "limit": limit}

    def make(directory: Path, place: Path) -> Facts:
        losses: dict[str, Losses | str] = {}
        near: dict[str, float] = {}
        loaded = load(model) if needy and model is not None else None
        if loaded and any(one.of_losses for one in wanted.values()):
            with Journal(place / JOURNAL) as journal:
                losses = losses_of(rows, LocalModel(loaded), journal)
        if loaded and target is not None:
            near = nearness(rows, read_instructions(target).rows, loaded, place)
        found = [scored_row(one, wanted, losses.get(one.key), near.get(one.key)) for one in rows]
        report_rejected(records.rejected, len(rows) + len(records.rejected), directory / REJECTED)
        write_rows(directory / ROWS, found)
        failed = Counter(one for one in losses.values() if isinstance(one, str))
        return {
            "rows": len(rows),
            "rejected": len(records.rejected),
            "failed": dict(failed),
            "scored": {name: sum(name in row["scores"] for row in found) for name in wanted},
        }

    return run_stage("score", output, settings, inputs, make, work)


def known(name: str) -> Score:
    """Return a score by name."""
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    return SCORES[name]


def losses_of(
    rows: Sequence[Instruction], model: LocalModel, journal: Journal
) -> dict[str, Losses | str]:
    """Return the losses of each row by its key, or why it has none."""
    found: dict[str, Losses | str] = {row["key"]: of_journal(row) for row in journal.rows}
    left = [one for one in rows if one.key not in found]
    alone = LocalModel(model.model, chat=False)
    with progress("scoring", len(left), "rows") as advance:
        for start in range(0, len(left), LOT):
            lot = left[start : start + LOT]
            given = dict(model.score([(one.prompt, one.completion) for one in lot]))
            free = dict(alone.score([("", one.completion) for one in lot]))
            for number, one in enumerate(lot):
                row = {"key": one.key, **losses_or_reason(given[number], free[number])}
                journal.add(row)
                found[one.key] = of_journal(row)
            advance(len(lot))
    return found


def losses_or_reason(given: Scores | Failed, free: Scores | Failed) -> dict[str, Any]:
    """Return what is kept of a row."""
    for one in (given, free):
        if isinstance(one, Failed):
            return {"failed": one.reason}
    assert isinstance(given, Scores)
    assert isinstance(free, Scores)
    return {"losses": [given.loss, free.loss], "tokens": len(given.logps)}


def of_journal(row: dict[str, Any]) -> Losses | str:
    """Return what was kept of a row."""
    if "failed" in row:
        return str(row["failed"])
    given, free = row["losses"]
    return float(given), float(free)


def nearness(
    rows: Sequence[Instruction], targets: Sequence[Instruction], model: Model, work: Path
) -> dict[str, float]:
    """Return for each row, by its key, the largest cosine to a row of the target."""
    embeddings, others = (
        embed(model, [(one.prompt, one.completion) for one in some], work / name)
        for some, name in ((rows, "rows"), (targets, "target"))
    )
    found = near_targets(embeddings, others, by="max").tolist()
    return {one.key: value for one, value in zip(rows, found, strict=True)}


def scored_row(
    one: Instruction,
    wanted: dict[str, Score],
    losses: Losses | str | None,
    near: float | None,
) -> dict[str, Any]:
    """Return a row with its scores."""
    found = dict(values(one, wanted, losses))
    if near is not None:
        found[TARGET] = near
    return {**one.row, "scores": {**one.row.get("scores", {}), **found}}


def values(
    one: Instruction, wanted: dict[str, Score], losses: Losses | str | None
) -> Iterator[tuple[str, float]]:
    """Yield the scores that a row has."""
    for name, each in wanted.items():
        if each.of_row is not None:
            yield name, each.of_row(one)
        elif each.of_losses is not None and isinstance(losses, tuple):
            value = each.of_losses(losses)
            if math.isfinite(value):
                yield name, value


def spelled(facts: Facts) -> str:
    """Say what was scored."""
    counts = ", ".join(f"{name} of {count}" for name, count in facts["scored"].items())
    lines = [f"{facts['rows']} rows: {counts}"]
    if facts["failed"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["failed"].items())
        lines.append(f"without losses: {reasons}")
    return "\n".join(lines)
