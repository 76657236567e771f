"""Tasks of the kind match: what is extracted from a reply should equal what is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from strop.evaluation.samples import Sample, Samples, written
from strop.evaluation.tasks import EXTRACTS, Row, Task
from strop.lm import LanguageModel

MARK = re.compile(r"[^\w\s]|_")  #: what is neither letter, digit nor space
ARTICLES = ("a", "an", "the")


def plain(text: str) -> str:
    """Return what is compared: without case, marks, articles and extra space.

    Marks are deleted, so that "U.S." is "US". What consists of marks or articles alone keeps them:
    else all such answers would be equal. (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.)
    """
    folded = text.casefold()
    words = MARK.sub("", folded).split() or folded.split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


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
        a, b = (Decimal(text.replace(",", "").replace("−", "-")) for text in (one, other))
        return a == b
    return plain(one) == plain(other)


def answers_of(task: Task, row: Row) -> list[str]:
    """Return what is right, extracted as replies are, a line each.

    A pattern of the task's own may say where an answer stands in a reply, as after "The answer is":
    where no line has that, the lines are what is right.
    """
    lines = [line.strip() for line in task.fill(task.answer, row).split("\n") if line.strip()]
    found = [text for line in lines if (text := extracted(task, line)) is not None]
    if task.extract not in EXTRACTS:
        found = found or lines
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
