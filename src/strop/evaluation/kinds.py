"""What kinds of tasks there are: how a model is asked, and what of its answer is right.

Each kind turns rows into samples: what was asked and answered, and figures. The first figure is the
one that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from strop.errors import unknown_name
from strop.evaluation.choice import check_choice, run_choice
from strop.evaluation.code import check_code, passes, run_codes
from strop.evaluation.instructions import check_instructions, followed, followed_loosely
from strop.evaluation.match import check_match, run_match
from strop.evaluation.perplexity import check_perplexity, run_perplexity
from strop.evaluation.samples import Sample, Samples, written
from strop.evaluation.tasks import Row, Task
from strop.lm import LanguageModel


@dataclass(frozen=True)
class Kind:
    """A kind of task."""

    figures: Callable[[Task], tuple[str, ...]]  #: names, the one that counts first
    chat: bool  #: whether prompts go into the chat template, if nothing else is said
    check: Callable[[Task, Row], None]  #: raises StropError for a row that cannot be asked
    run: Callable[[Task, Sequence[Row], LanguageModel], Samples]
    given: bool = False  #: whether given answers are scored, which endpoints cannot
    loss: bool = False  #: whether figures are losses, [sum, count] of a row; else shares


def check_row_instructions(task: Task, row: Row) -> None:
    """Raise StropError unless a row's instructions are known."""
    try:
        check_instructions(row["instruction_id_list"], row["kwargs"])
    except KeyError as error:
        raise task.error(f"a row has no {error}") from error


def run_instructions(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Check which instructions a reply follows."""

    def judged(row: Row, text: str) -> Sample:
        names, arguments = row["instruction_id_list"], row["kwargs"]
        strict = followed(text, names, arguments)
        loose = followed_loosely(text, names, arguments)
        return {
            "followed": strict,
            "followed loosely": loose,
            "all followed": float(all(strict)),
            "all followed, loosely": float(all(loose)),
            "share followed": float(np.mean(strict)),
        }

    return written(task, rows, model, judged)


def always(*names: str) -> Callable[[Task], tuple[str, ...]]:
    """Return the figures of a kind whose tasks all have the same."""
    return lambda task: names


KINDS: dict[str, Kind] = {
    "choice": Kind(
        always("accuracy", "accuracy per letter", "accuracy per token"),
        chat=False,
        check=check_choice,
        run=run_choice,
        given=True,
    ),
    "match": Kind(
        always("exact match", "extracted anything"), chat=True, check=check_match, run=run_match
    ),
    "instructions": Kind(
        always("all followed", "all followed, loosely", "share followed"),
        chat=True,
        check=check_row_instructions,
        run=run_instructions,
    ),
    "code": Kind(lambda task: tuple(passes(task)), chat=False, check=check_code, run=run_codes),
    "perplexity": Kind(
        always("bits per byte", "loss per token"),
        chat=False,
        check=check_perplexity,
        run=run_perplexity,
        given=True,
        loss=True,
    ),
}


def kind_of(task: Task) -> Kind:
    """Return the kind of a task. Raises StropError for one that is not known."""
    if task.kind not in KINDS:
        raise task.error(str(unknown_name("kind", task.kind, KINDS)))
    return KINDS[task.kind]
