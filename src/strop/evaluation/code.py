"""Tasks of the kind code: a model writes programs, which should pass their tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strop.evaluation.samples import Sample, Samples, sampling
from strop.evaluation.sandbox import Limits, pass_at_k, run_many
from strop.evaluation.tasks import Row, Task
from strop.lm import Answer, LanguageModel
from strop.models.machine import thread_count

DRAWS = (1, 10, 100)  #: of each pass@k (Chen et al. 2021, arXiv 2107.03374, section 2.1)


def passes(task: Task) -> dict[str, int]:
    """Return the figures of a task, each pass@k with its k; of one answer, whether it passed."""
    if task.samples == 1:
        return {"passed": 1}
    draws = [*(k for k in DRAWS if k < task.samples), task.samples]
    return {f"pass@{k}": k for k in draws}


def check_code(task: Task, row: Row) -> None:
    """Raise StropError unless there is a program of tests."""
    if not task.fill(task.tests, row, completion="").strip():
        raise task.error("no tests")


def run_codes(task: Task, rows: Sequence[Row], model: LanguageModel) -> Samples:
    """Let a model write programs and, while it goes on, run their tests in other processes."""
    prompts = [task.asked(row) for row in rows]
    jobs = [number for number in range(len(rows)) for _ in range(task.samples)]
    ways = [sampling(task, row, number) for row in rows for number in range(task.samples)]
    running: list[tuple[int, Answer]] = []  #: job and answer of each program, in their order
    failed: dict[int, str] = {}

    def programs() -> Iterator[str]:
        for job, answer in model.generate([prompts[number] for number in jobs], ways):
            if isinstance(answer, Answer):
                running.append((job, answer))
                yield task.fill(task.tests, rows[jobs[job]], completion=answer.text)
            else:
                failed[jobs[job]] = answer.reason

    ended: dict[int, dict[int, Sample]] = {}
    for place, outcome in run_many(programs(), Limits(), thread_count()):
        job, answer = running[place]
        number = jobs[job]
        known = ended.setdefault(number, {})
        known[job] = {
            "reply": answer.text,
            "finish": answer.finish_reason,
            "outcome": outcome.reason,
        }
        if len(known) == task.samples:
            every = [known[one] for one in sorted(known)]
            yield number, {"prompt": prompts[number], **judged(task, every)}
            del ended[number]
    for number, reason in failed.items():
        yield number, {"prompt": prompts[number], "failed": reason}


def judged(task: Task, answers: Sequence[Sample]) -> Sample:
    """Return the answers to a row with each pass@k."""
    correct = sum(one["outcome"] == "passed" for one in answers)
    figures = {name: pass_at_k(task.samples, correct, k) for name, k in passes(task).items()}
    return {"answers": list(answers), **figures}
