"""Tasks of the kind choice: the likeliest of some answers should be the right one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strop.evaluation.samples import Sample, Samples
from strop.evaluation.tasks import Row, Task
from strop.lm import Failed, LanguageModel, Scores


def choices_of(task: Task, row: Row) -> tuple[list[str], int]:
    """Return the answers to choose from, and the number of the right one."""
    choices = task.fill(task.choices, row).split("\n")
    right = task.fill(task.answer, row)
    if len(choices) < 2 or not all(choices):
        raise task.error(f"fewer than two choices: {choices!r:.80}")
    if choices.count(right) != 1:
        raise task.error(f"the answer {right!r:.40} is not one of {choices!r:.80}")
    return choices, choices.index(right)


def check_choice(task: Task, row: Row) -> None:
    """Raise StropError unless one of the choices is right."""
    choices_of(task, row)


def run_choice(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Choose the likeliest answer by the log-probability of all of it, of a letter, of a token."""
    prompts = [task.asked(row) for row in rows]
    options = [choices_of(task, row) for row in rows]
    owners = [number for number, (choices, _) in enumerate(options) for _ in choices]
    before = "" if model.chat else " "
    pairs = [
        (prompts[number], before + choice)
        for number, (choices, _) in enumerate(options)
        for choice in choices
    ]
    starts = np.searchsorted(owners, range(len(rows)))
    found: dict[int, dict[int, Scores | Failed]] = {}
    for place, scores in model.score(pairs):
        number = owners[place]
        known = found.setdefault(number, {})
        known[place - int(starts[number])] = scores
        choices, right = options[number]
        if len(known) == len(choices):
            every = [known[index] for index in range(len(choices))]
            yield number, {"prompt": prompts[number], **chosen(choices, right, every)}
            del found[number]


def chosen(choices: Sequence[str], right: int, every: Sequence[Scores | Failed]) -> Sample:
    """Return which answer a model chooses by each of three measures."""
    for one in every:
        if isinstance(one, Failed):
            return {"failed": one.reason}
    totals = np.array([one.total for one in every if isinstance(one, Scores)])
    tokens = [len(one.logps) for one in every if isinstance(one, Scores)]
    letters = [len(choice) for choice in choices]
    figures = {
        "accuracy": totals,
        "accuracy per letter": totals / letters,
        "accuracy per token": totals / tokens,
    }
    return {
        "choices": list(choices),
        "right": right,
        "log-probabilities": totals.tolist(),
        "tokens": tokens,
        **{name: float(values.argmax() == right) for name, values in figures.items()},
    }
