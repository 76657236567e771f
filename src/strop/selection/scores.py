"""Scores of examples that need no rater: lengths, losses, what is like a target, rewards.

OUTPUT/rows.jsonl              the rows with their scores; a row that could not be scored has none
OUTPUT/rejected.jsonl          rows that could not be read
OUTPUT/target-rejected.jsonl   rows of the target that could not be read
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.data import read_json, sha256_file, write_rows
from strop.data.instructions import (
    Instruction,
    read_instructions,
    report_unread,
    shown,
    unique,
    with_scores,
)
from strop.errors import StropError, unknown_name
from strop.lm import LocalModel
from strop.models import load
from strop.models.identity import model_identity
from strop.selection.diversity import near_targets
from strop.selection.embed import embed
from strop.selection.losses import mean_losses
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage
from strop.tuning.origins import RANKER, ranker_hash

LOSSES, LOSSES_ALONE = "losses.jsonl", "losses-alone.jsonl"  #: journals
TARGET_REJECTED = f"target-{REJECTED}"

LARGEST = math.log(sys.float_info.max)  #: loss whose perplexity is a number

Rows = Sequence[Instruction]
Reading = float | str  #: what scores of a row are computed from, or why there is none
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
    given = {"model": model, "target": target and rows_path(target, output), "ranker": ranker}
    check_needs(wanted, given)
    path = rows_path(data, output)
    records = read_instructions(path)
    different = unique(records.rows, path)
    rows = different[: limit or None]
    inputs = {name: NEEDS[name].identity(one) for name, one in given.items() if one is not None}
    settings = {"scores": sorted(wanted), "limit": limit}

    def make(directory: Path, place: Path) -> Facts:
        opened: dict[str, object] = dict(given)
        if target is not None:
            opened["target"] = target_rows(rows_path(target), directory)
        readers = {
            read: {need: opened[need] for need in one.needs}
            for one in wanted.values()
            for read in one.reads
        }
        readings = {read: read(rows, place, **needs) for read, needs in readers.items()}
        found = [values(one, wanted, readings) for one in rows]
        report_unread(records, directory / REJECTED)
        write_rows(directory / ROWS, map(with_scores, rows, map(numbers, found)))
        return {
            "rows": len(rows),
            "rejected": len(records.rejected),
            "repeated": len(records.rows) - len(different),
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


def target_rows(path: Path, directory: Path) -> Rows:
    """Return the rows of a target; those that cannot be used go to a file of the directory."""
    records = read_instructions(path)
    report_unread(records, directory / TARGET_REJECTED)
    return unique(records.rows, path)


def values(
    one: Instruction, wanted: Mapping[str, Score], readings: Mapping[Reader, Readings]
) -> dict[str, float | str]:
    """Return each score of a row, or why it has none."""
    found: dict[str, float | str] = {}
    for name, score in wanted.items():
        parts = [readings[read][one.key] for read in score.reads]
        why = next((part for part in parts if isinstance(part, str)), None)
        value = score.value(*parts) if why is None else why
        finite = isinstance(value, str) or math.isfinite(value)
        found[name] = value if finite else f"{name} is not finite"
    return found


def reasons(found: Mapping[str, float | str]) -> set[str]:
    """Return why a row lacks scores."""
    return {value for value in found.values() if isinstance(value, str)}


def numbers(found: Mapping[str, float | str]) -> dict[str, float | None]:
    """Return the scores of a row, None where there is none."""
    return {name: None if isinstance(value, str) else value for name, value in found.items()}


# ---- What reads rows -----------------------------------------------------------------------------


def words(one: Instruction) -> float:
    """Return the number of words of an answer."""
    return float(len(one.completion.split()))


def prompt_words(one: Instruction) -> float:
    """Return the number of words of a prompt."""
    return float(len(shown(one.prompt).split()))


def lengths(rows: Rows, work: Path) -> Readings:
    """Return the words of each answer."""
    return {one.key: words(one) for one in rows}


def prompt_lengths(rows: Rows, work: Path) -> Readings:
    """Return the words of each prompt."""
    return {one.key: prompt_words(one) for one in rows}


def losses(rows: Rows, work: Path, model: str) -> Readings:
    """Return the mean loss of a token of each answer after its prompt, in the chat template."""
    pairs = {one.key: (one.prompt, one.completion) for one in rows}
    return mean_losses(LocalModel(load(model)), pairs, work / LOSSES)


def losses_alone(rows: Rows, work: Path, model: str) -> Readings:
    """Return the mean loss of a token of each answer without its prompt, as a plain text."""
    pairs = {one.key: ("", one.completion) for one in rows}
    return mean_losses(LocalModel(load(model), chat=False), pairs, work / LOSSES_ALONE)


def nearness(rows: Rows, work: Path, model: str, target: Rows) -> Readings:
    """Return the largest cosine of each row to one of the target."""
    loaded = load(model)
    embeddings, others = (
        embed(loaded, [(one.prompt, one.completion) for one in some], work / name)
        for some, name in ((rows, "rows"), (target, "target"))
    )
    found = near_targets(embeddings, others).tolist()
    return {one.key: value for one, value in zip(rows, found, strict=True)}


def influences(rows: Rows, work: Path, model: str, target: Rows) -> Readings:
    """Return the influence of each row on the target."""
    from strop.selection.influence import influence  # PyTorch, which other scores do without

    return influence(model, rows, target, work / "influence")


def rewards(rows: Rows, work: Path, ranker: Path) -> Readings:
    """Return the probability that each answer is good."""
    from strop.tuning.ranker import Ranker  # PyTorch

    scores = Ranker(ranker, work).scores([(one.prompt, [one.completion]) for one in rows])
    return {one.key: found for one, [found] in zip(rows, scores, strict=True)}


# ---- The tables ----------------------------------------------------------------------------------


def exponential(loss: float) -> float:
    """Return the perplexity of a loss, infinity where it is larger than any number."""
    return math.exp(loss) if loss < LARGEST else math.inf


@dataclass(frozen=True)
class Score:
    """A number that an example has."""

    what: str  #: in a few words
    reads: tuple[Reader, ...]  #: read what it is computed from
    needs: tuple[str, ...] = ()  #: see NEEDS
    value: Callable[..., float] = lambda one: one  #: of all that was read of a row


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
    "length": Score("words of the answer", (lengths,)),
    "prompt-length": Score("words of the prompt", (prompt_lengths,)),
    "loss": Score("mean loss of a token of the answer", (losses,), ("model",)),
    "perplexity": Score("its exponential", (losses,), ("model",), exponential),
    "ifd": Score(
        "loss of the answer over its loss without the prompt (Cherry)",
        (losses, losses_alone),
        ("model",),
        lambda given, alone: given / alone if alone else math.inf,
    ),
    "ifd-perplexity": Score(
        "perplexity of the answer over that without the prompt (Superfiltering)",
        (losses, losses_alone),
        ("model",),
        lambda given, alone: exponential(given - alone),
    ),
    "target": Score(
        "largest cosine to a row of the target, by a model's states",
        (nearness,),
        ("model", "target"),
    ),
    "influence": Score(
        "mean cosine of Adam's step for it to the gradients of the target's rows (LESS)",
        (influences,),
        ("model", "target"),
    ),
    "reward": Score("probability that the answer is good, by a ranker", (rewards,), ("ranker",)),
}


def spelled(facts: Facts) -> str:
    """Say what was scored."""
    counts = ", ".join(f"{name} of {count}" for name, count in facts["scored"].items())
    lines = [f"{facts['rows']} rows: {counts}"]
    if facts["failed"]:
        failed = ", ".join(f"{count} {reason}" for reason, count in facts["failed"].items())
        lines.append(f"without a score: {failed}")
    if facts["repeated"]:
        lines.append(f"left out: {facts['repeated']} exact repeats of other rows")
    return "\n".join(lines)
