"""What kinds of tasks there are: how a model is asked, and what of its answer is right.

Each kind turns rows into samples: what was asked and answered, and figures, 0 or 1 for most. The
first figure is the one that counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strop.decoding import Sampling
from strop.errors import StropError
from strop.evaluation.instructions import check_instructions, followed, followed_loosely
from strop.evaluation.sandbox import Limits, run_code
from strop.evaluation.tasks import Row, Task
from strop.lm import Answer, Failed, LanguageModel, Scores

Sample = dict[str, Any]  #: of one row: what was asked and answered, and figures
Samples = Iterator[tuple[int, Sample]]  #: with the number of the row, in any order


@dataclass(frozen=True)
class Kind:
    """A kind of task."""

    figures: tuple[str, ...]  #: names, the one that counts first
    chat: bool  #: whether prompts go into the chat template, if nothing else is said
    check: Callable[[Task, Row], None]  #: raises StropError for a row that cannot be asked
    run: Callable[[Task, Sequence[Row], LanguageModel], Samples]


def greedy(task: Task) -> Sampling:
    """Return the sampling of answers that are written: the most likely token each time."""
    return Sampling(
        temperature=0.0,
        min_p=0.0,
        repetition_penalty=1.0,
        max_tokens=task.max_tokens,
        stop=task.stop,
    )


def written(
    task: Task,
    rows: Sequence[Row],
    model: LanguageModel,
    judge: Callable[[Row, str], Mapping[str, Any]],
) -> Samples:
    """Let a model write answers, and judge each."""
    prompts = [task.asked(row) for row in rows]
    for number, answer in model.generate(prompts, [greedy(task)] * len(rows)):
        sample: Sample = {"prompt": prompts[number]}
        if isinstance(answer, Answer):
            sample |= {"reply": answer.text, "finish": answer.finish_reason}
            sample |= judge(rows[number], answer.text)
        else:
            sample["failed"] = answer.reason
        yield number, sample


# ---- Choice --------------------------------------------------------------------------------------


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


# ---- Match ---------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Return what is compared: without case, articles, marks and extra space.

    (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.)
    """
    words = re.findall(r"\w+", text.casefold())
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def extracted(task: Task, text: str) -> str | None:
    """Return the last match of the task's pattern, None if there is none."""
    found = [*re.finditer(task.pattern, text)]
    if not found:
        return None
    last = found[-1]
    return last[1] if last.groups() else last[0]


def same(task: Task, one: str, other: str) -> bool:
    """Tell whether two extracted texts are the same: numbers by value, others by their words."""
    if task.extract == "number":
        a, b = (float(text.replace(",", "").replace("−", "-")) for text in (one, other))
        return a == b
    return plain(one) == plain(other)


def answers_of(task: Task, row: Row) -> list[str]:
    """Return what is right, extracted as replies are."""
    lines = [line for line in task.fill(task.answer, row).split("\n") if line.strip()]
    found = [text for line in lines if (text := extracted(task, line)) is not None]
    if not found:
        raise task.error(f"no answer in {lines!r:.80}")
    return found


def check_match(task: Task, row: Row) -> None:
    """Raise StropError unless something is right."""
    answers_of(task, row)


def run_match(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Compare what is extracted from a reply with what is right."""

    def judged(row: Row, text: str) -> Sample:
        found, right = extracted(task, text), answers_of(task, row)
        hit = found is not None and any(same(task, found, one) for one in right)
        return {
            "extracted": found,
            "right": right,
            "exact match": float(hit),
            "extracted anything": float(found is not None),
        }

    return written(task, rows, model, judged)


# ---- Instructions and code -----------------------------------------------------------------------


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


def check_code(task: Task, row: Row) -> None:
    """Raise StropError unless there is a program of tests."""
    if not task.fill(task.tests, row, completion="").strip():
        raise task.error("no tests")


def run_codes(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Run the tests on the code that a model writes, in a process of its own."""

    def judged(row: Row, text: str) -> Sample:
        outcome = run_code(task.fill(task.tests, row, completion=text), Limits())
        return {"outcome": outcome.reason, "passed": float(outcome.passed)}

    return written(task, rows, model, judged)


KINDS: dict[str, Kind] = {
    "choice": Kind(
        ("accuracy", "accuracy per letter", "accuracy per token"), False, check_choice, run_choice
    ),
    "match": Kind(("exact match", "extracted anything"), True, check_match, run_match),
    "instructions": Kind(
        ("all followed", "all followed, loosely", "share followed"),
        True,
        check_row_instructions,
        run_instructions,
    ),
    "code": Kind(("passed",), False, check_code, run_codes),
}


def kind_of(task: Task) -> Kind:
    """Return the kind of a task. Raises StropError for one that is not known."""
    if task.kind not in KINDS:
        known = ", ".join(KINDS)
        raise StropError(f"task {task.name}: unknown kind '{task.kind}': choose from {known}")
    return KINDS[task.kind]
