"""Samples of tasks: what a model was asked about a row, what it answered, and figures of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from strop.data import sha256_json
from strop.decoding import Sampling
from strop.evaluation.tasks import Row, Task
from strop.lm import Answer, LanguageModel

#: Of one row: what was asked and answered, and figures; a figure is a number, or [sum, count]
Sample = dict[str, Any]
Samples = Iterator[tuple[int, Sample]]  #: with the number of the row, in any order


def sampling(task: Task, row: Row, number: int = 0) -> Sampling:
    """Return how one of the answers to a row is written: greedy, or by the task's temperature.

    The seed depends on the row alone, so that who goes on gets the answers of who never stopped.
    """
    return Sampling(
        temperature=task.temperature,
        min_p=0.0,
        repetition_penalty=1.0,
        max_tokens=task.max_tokens,
        stop=task.stop,
        seed=int(sha256_json([row, number])[:16], 16) if task.temperature else 0,
    )


def written(
    task: Task,
    rows: Sequence[Row],
    model: LanguageModel,
    judge: Callable[[Row, str], Mapping[str, Any]],
) -> Samples:
    """Let a model write an answer to each row, and judge it."""
    prompts = [task.asked(row) for row in rows]
    for number, answer in model.generate(prompts, [sampling(task, row) for row in rows]):
        sample: Sample = {"prompt": prompts[number]}
        if isinstance(answer, Answer):
            sample |= {"reply": answer.text, "finish": answer.finish_reason}
            sample |= judge(rows[number], answer.text)
        else:
            sample["failed"] = answer.reason
        yield number, sample
