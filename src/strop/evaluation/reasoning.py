"""Tasks of the kind reasoning: the library reasoning-gym makes the questions and judges answers.

Many of its questions have more right answers than one: it says how good an answer is, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strop.evaluation.generated import REASONING, questions_of
from strop.evaluation.match import extracted
from strop.evaluation.samples import Sample, Samples, written
from strop.evaluation.tasks import Row, Task
from strop.evaluation.templates import FAILURES
from strop.lm import LanguageModel


def questions(task: Task) -> Any:
    """Return the data set of a task. Raises StropError for data that the library does not make."""
    settings = dict(task.data)
    if settings.pop("generator", None) != REASONING:
        raise task.error(f"the kind reasoning needs data of the generator {REASONING}")
    return questions_of(settings)


def check_reasoning(task: Task, row: Row) -> None:
    """Raise StropError for data that the library does not make."""
    if task.data.get("generator") != REASONING:
        questions(task)


def run_reasoning(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Let the library judge what is extracted from a reply; one that it cannot read is wrong."""
    made = questions(task)

    def judged(row: Row, text: str) -> Sample:
        found = extracted(task, text.strip())
        sample: Sample = {"extracted": found, "right": row["answer"]}
        try:
            score = float(made.score_answer(found, made[row["index"]]))
        except FAILURES as error:
            score = 0.0
            sample["not judged"] = f"{type(error).__name__}: {error}"
        return sample | {"solved": float(score >= 1.0), "score": score}

    return written(task, rows, model, judged)
