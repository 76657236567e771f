"""Scores of examples that need no rater: lengths, losses, what is like a target, rewards.

OUTPUT/rows.jsonl       the rows with their scores; a row that could not be scored has none
OUTPUT/rejected.jsonl   rows that could not be read
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.console import progress
from strop.data import read_json, report_rejected, sha256_file, write_rows
from strop.data.instructions import Instruction, read_instructions, shown, unique
from strop.data.journal import Journal
from strop.errors import StropError, unknown_name
from strop.lm import Failed, LocalModel, Scores
from strop.models import load
from strop.models.identity import model_identity
from strop.selection.diversity import near_targets
from strop.selection.embed import embed
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage
from strop.tuning.origins import RANKER, ranker_hash

JOURNAL = "losses.jsonl"
LOT = 32  #: rows whose losses are computed together, and could be lost together

Rows = Sequence[Instruction]
Reading = tuple[float, ...] | str  #: what scores of a row are computed from, or why there is none
Readings = Mapping[str, Reading]  #: by the key of the row
Reader = Callable[..., Readings]  #: takes the rows, a place to work in, and what it needs by name


def score(
    data: Path,
    names: Sequence[str],
    output: Path,
    model: str | None = None,
    target: Path | None = None,
    ranker: Path | None = None,
    limit: int = 0,
    work: Path | None = None,
) -> Facts:
    """Add scores to the rows of a file of instructions, or to the first so many of them.

    The table `SCORES` says which of them need a model, a file of rows of a target, or a ranker.
    Raises StropError for unknown scores, and for what they need and lack, or is given and unused.
    """
    wanted = {name: known(name) for name in names}
    if not wanted:
        raise StropError(f"which scores? There are {', '.join(SCORES)}")
    given = {"model": model, "target": target and rows_path(target), "ranker": ranker}
    check_needs(wanted, given)
    path = rows_path(data)
    records = read_instructions(path)
    rows = unique(records.rows, path)[: limit or None]
    inputs = {name: NEEDS[name].identity(one) for name, one in given.items() if one is not None}
    settings = {"scores": sorted(wanted), "limit": limit}

    def make(directory: Path, place: Path) -> Facts:
        readers = {one.read: {need: given[need] for need in one.needs} for one in wanted.values()}
        readings = {read: read(rows, place, **needs) for read, needs in readers.items()}
        found = [values(one, wanted, readings) for one in rows]
        report_rejected(records.rejected, len(rows) + len(records.rejected), directory / REJECTED)
        write_rows(directory / ROWS, map(scored_row, rows, found))
        return {
            "rows": len(rows),
            "rejected": len(records.rejected),
            "failed": dict(Counter(why for own in found for why in reasons(own))),
            "scored": {name: sum(isinstance(own[name], float) for own in found) for name in wanted},
        }

    return run_stage("score", output, settings, inputs | {"data": sha256_file(path)}, make, work)


def known(name: str) -> Score:
    """Return a score by name."""
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    return SCORES[name]


def check_needs(wanted: Mapping[str, Score], given: Mapping[str, object]) -> None:
    """Raise StropError for what a score needs and is not given, or is given and none needs."""
    users = {need: [name for name, one in wanted.items() if need in one.needs] for need in NEEDS}
    for need, names in users.items():
        if names and given[need] is None:
            raise StropError(f"{names[0]} needs {NEEDS[need].what}")
    for need, names in users.items():
        if not names and given[need] is not None:
            raise StropError(f"no {need} is needed for {', '.join(wanted)}: leave it out")


def values(
    one: Instruction, wanted: Mapping[str, Score], readings: Mapping[Reader, Readings]
) -> dict[str, float | str]:
    """Return each score of a row, or why it has none."""
    found: dict[str, float | str] = {}
    for name, score in wanted.items():
        reading = readings[score.read][one.key]
        value = reading if isinstance(reading, str) else score.value(*reading)
        finite = isinstance(value, str) or math.isfinite(value)
        found[name] = value if finite else f"{name} is not finite"
    return found


def reasons(found: Mapping[str, float | str]) -> set[str]:
    """Return why a row lacks scores."""
    return {value for value in found.values() if isinstance(value, str)}


def scored_row(one: Instruction, found: Mapping[str, float | str]) -> dict[str, Any]:
    """Return a row with its scores."""
    new = {name: value for name, value in found.items() if not isinstance(value, str)}
    return {**one.row, "scores": {**one.row.get("scores", {}), **new}}


# ---- What reads rows -----------------------------------------------------------------------------


def words(one: Instruction) -> float:
    """Return the number of words of an answer."""
    return float(len(one.completion.split()))


def prompt_words(one: Instruction) -> float:
    """Return the number of words of a prompt."""
    return float(len(shown(one.prompt).split()))


def lengths(rows: Rows, work: Path) -> Readings:
    """Return the words of each row's answer and of its prompt."""
    return {one.key: (words(one), prompt_words(one)) for one in rows}


def losses(rows: Rows, work: Path, model: str) -> Readings:
    """Return the mean loss of a token of each answer after its prompt, and without it.

    The model reads the first in its chat template, the second as a text of its own.
    """
    chat = LocalModel(load(model))
    alone = LocalModel(chat.model, chat=False)
    with Journal(work / JOURNAL) as journal:
        found = {row["key"]: of_journal(row) for row in journal.rows}
        left = [one for one in rows if one.key not in found]
        with progress("scoring", len(left), "rows") as advance:
            for start in range(0, len(left), LOT):
                lot = left[start : start + LOT]
                given = dict(chat.score([(one.prompt, one.completion) for one in lot]))
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


def of_journal(row: Mapping[str, Any]) -> Reading:
    """Return what was kept of a row."""
    return str(row["failed"]) if "failed" in row else tuple(map(float, row["losses"]))


def nearness(rows: Rows, work: Path, model: str, target: Path) -> Readings:
    """Return the largest cosine of each row to one of the target."""
    loaded = load(model)
    embeddings, others = (
        embed(loaded, [(one.prompt, one.completion) for one in some], work / name)
        for some, name in ((rows, "rows"), (read_instructions(target).rows, "target"))
    )
    found = near_targets(embeddings, others, by="max").tolist()
    return {one.key: (value,) for one, value in zip(rows, found, strict=True)}


def influences(rows: Rows, work: Path, model: str, target: Path) -> Readings:
    """Return the influence of each row on the target."""
    from strop.selection.influence import influence  # PyTorch, which other scores do without

    targets = unique(read_instructions(target).rows, target)
    found = influence(model, rows, targets, work / "influence")
    return {key: one if isinstance(one, str) else (one,) for key, one in found.items()}


def rewards(rows: Rows, work: Path, ranker: Path) -> Readings:
    """Return the probability that each answer is good."""
    from strop.tuning.ranker import Ranker  # PyTorch

    scores = Ranker(ranker, work).scores([(one.prompt, [one.completion]) for one in rows])
    return {one.key: tuple(found) for one, found in zip(rows, scores, strict=True)}


# ---- The tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A number that an example has."""

    what: str  #: in a few words
    read: Reader  #: reads what it is computed from
    needs: tuple[str, ...] = ()  #: see NEEDS
    value: Callable[..., float] = lambda one: one  #: of what was read of a row


@dataclass(frozen=True)
class Need:
    """What some scores need."""

    what: str  #: in a few words
    identity: Callable[[Any], str]  #: hash of its contents


def pointwise_hash(ranker: Path) -> str:
    """Identify a ranker. Raises StropError for one that scores no answer alone."""
    digest = ranker_hash(ranker)
    found = read_json(ranker / RANKER)
    if not isinstance(found, dict) or found.get("kind") != "pointwise":
        raise StropError(f"{ranker}: compares answers and scores none: train one with --pointwise")
    return digest


NEEDS: dict[str, Need] = {
    "model": Need("a model that reads the rows", model_identity),
    "target": Need("a target: a file of rows like those that the model is for", sha256_file),
    "ranker": Need("a ranker, which strop tune ranker --pointwise makes", pointwise_hash),
}

#: By name. The two ratios of Cherry (Li et al. 2024, arXiv 2308.12032, equation 4) and of
#: Superfiltering (Li et al. 2024, arXiv 2402.00530, section 3.1) both go by the name IFD and are
#: not the same: one divides losses, the other perplexities.
SCORES: dict[str, Score] = {
    "length": Score("words of the answer", lengths, value=lambda answer, prompt: answer),
    "prompt-length": Score("words of the prompt", lengths, value=lambda answer, prompt: prompt),
    "loss": Score(
        "mean loss of a token of the answer", losses, ("model",), lambda given, alone: given
    ),
    "perplexity": Score(
        "its exponential", losses, ("model",), lambda given, alone: math.exp(given)
    ),
    "ifd": Score(
        "loss of the answer over its loss without the prompt (Cherry)",
        losses,
        ("model",),
        lambda given, alone: given / alone if alone else math.inf,
    ),
    "ifd-perplexity": Score(
        "perplexity of the answer over that without the prompt (Superfiltering)",
        losses,
        ("model",),
        lambda given, alone: math.exp(given - alone),
    ),
    "target": Score(
        "largest cosine to a row of the target, by a model's states", nearness, ("model", "target")
    ),
    "influence": Score(
        "mean cosine of Adam's step for it to the gradients of the target's rows (LESS)",
        influences,
        ("model", "target"),
    ),
    "reward": Score("probability that the answer is good, by a ranker", rewards, ("ranker",)),
}


def spelled(facts: Facts) -> str:
    """Say what was scored."""
    counts = ", ".join(f"{name} of {count}" for name, count in facts["scored"].items())
    lines = [f"{facts['rows']} rows: {counts}"]
    if facts["failed"]:
        failed = ", ".join(f"{count} {reason}" for reason, count in facts["failed"].items())
        lines.append(f"without a score: {failed}")
    return "\n".join(lines)
