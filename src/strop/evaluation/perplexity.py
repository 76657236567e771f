"""Tasks of the kind perplexity: how well a model predicts a text, perhaps after a beginning.

Both figures of a row are a sum and a count, so that long rows weigh more than short ones: all that
was lost, over all bytes or tokens. Models with different tokenizers can be compared by the bytes,
which are the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from strop.evaluation.samples import Samples
from strop.evaluation.tasks import Row, Task
from strop.lm import Failed, LanguageModel


def split_text(task: Task, row: Row) -> tuple[str, str]:
    """Return what is only read, and the text after it that counts.

    Space between the two counts, as most tokenizers put it before the next word.
    """
    before = task.asked(row)
    read = before.rstrip()
    return read, before[len(read) :] + task.fill(task.answer, row)


def check_perplexity(task: Task, row: Row) -> None:
    """Raise StropError unless there is a text."""
    if not split_text(task, row)[1].strip():
        raise task.error("no text to predict")


def run_perplexity(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Sum the losses of each text; one that does not fit the context has none."""
    pairs = [split_text(task, row) for row in rows]
    for number, scores in model.score(pairs):
        read, text = pairs[number]
        if isinstance(scores, Failed):
            yield number, {"prompt": read, "text": text, "failed": scores.reason}
        else:
            yield (
                number,
                {
                    "prompt": read,
                    "text": text,
                    "bits per byte": [-scores.total / math.log(2), len(text.encode())],
                    "loss per token": [-scores.total, len(scores.logps)],
                },
            )
