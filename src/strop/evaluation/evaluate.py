"""Evaluate a model on tasks, alone or beside another on the same rows.

OUTPUT/results.json        figures with intervals, and differences
OUTPUT/lm_eval.json        the figures as lm-evaluation-harness writes them
OUTPUT/samples/NAME.jsonl  every row of a task: what was asked, answered, and right
OUTPUT/against/NAME.jsonl  the same of the other model
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import progress, say
from strop.data import sha256_json, write_json, write_rows
from strop.data.journal import Journal
from strop.errors import StropError, StropFailure
from strop.evaluation.harness import harness_results
from strop.evaluation.kinds import Kind, Sample, kind_of
from strop.evaluation.tasks import Row, Task, open_task, task_names, task_rows
from strop.lm import LanguageModel, LocalModel, RemoteConfig, open_model
from strop.stage import Facts, run_stage
from strop.stats import (
    Interval,
    bootstrap,
    holm,
    mcnemar,
    paired_difference,
    paired_proportions,
    permutation_test,
    verdict,
    wilson,
)

RESULTS, SAMPLES, AGAINST = "results.json", "samples", "against"
HARNESS = "lm_eval.json"
LEAST = 2  #: rows for an interval


def evaluate(
    model: str,
    tasks: Sequence[str],
    output: Path,
    against: str | None = None,
    limit: int = 0,
    chat: bool | None = None,
    remote: RemoteConfig | None = None,
    work: Path | None = None,
) -> Facts:
    """Evaluate on the first so many rows of each task, all of them if `limit` is 0.

    With `chat` prompts go into the chat template, without they are continued as they are; if it is
    None, that depends on the kind of task and on whether the model has a template. Every answer is
    kept as it comes: who is killed goes on where he was. Raises StropError for unknown tasks.
    """
    prepared = [prepare(name, limit) for name in tasks]
    if not tasks:
        raise StropError("which tasks?  strop eval --list  names them")
    if len({one.task.name for one in prepared}) != len(prepared):
        raise StropError("two tasks have one name")
    models = [Opened(name, chat, remote) for name in (model, against) if name is not None]
    inputs = {f"task {one.task.name}": one.hash for one in prepared}
    inputs |= {f"model {number}": one.identity for number, one in enumerate(models)}
    settings = {"chat": chat, "limit": limit, "tasks": [one.task.name for one in prepared]}

    def make(directory: Path, place: Path) -> Facts:
        facts: Facts = {"model": model, "against": against, "tasks": {}}
        for one in prepared:
            every = []
            for each, folder in zip(models, (SAMPLES, AGAINST), strict=False):
                samples = sampled(one, each.for_kind(one.kind), place / folder)
                write_rows(directory / folder / f"{one.task.name}.jsonl", samples)
                every.append(samples)
            facts["tasks"][one.task.name] = {
                "title": one.task.title,
                "kind": one.task.kind,
                "rows": len(one.rows),
                "left_out": one.left_out,
                "chat": [each.for_kind(one.kind).chat for each in models],
                "failed": [counted_failures(samples) for samples in every],
                "figures": {name: figures(name, every) for name in one.kind.figures},
            }
        if against is not None:
            correct(facts["tasks"])
        write_json(directory / RESULTS, facts)
        write_json(directory / HARNESS, harness_results(facts))
        return facts

    return run_stage("eval", output, settings, inputs, make, work)


@dataclass(frozen=True)
class Prepared:
    """A task whose rows can all be asked."""

    task: Task
    kind: Kind
    rows: Sequence[Row]
    left_out: Mapping[str, int]  #: why rows cannot be asked, and how many

    @property
    def hash(self) -> str:
        """Return the hash of what is asked."""
        return sha256_json([self.task.hash, list(self.rows)])


def prepare(name: str, limit: int) -> Prepared:
    """Open a task and read its rows. Raises StropError if none of them can be asked."""
    task = open_task(name)
    kind = kind_of(task)
    rows = task_rows(task, limit)
    usable: list[Row] = []
    reasons = Counter[str]()
    for row in rows:
        try:
            task.asked(row)
            kind.check(task, row)
            usable.append(row)
        except StropError as error:
            reasons[str(error)[:120]] += 1
    if not usable:
        reason, count = reasons.most_common(1)[0]
        raise StropError(f"no row can be asked; {count} of {len(rows)}: {reason}")
    if reasons:
        say(f"{task.name}: {len(rows) - len(usable)} of {len(rows)} rows cannot be asked")
    return Prepared(task, kind, usable, dict(reasons.most_common(20)))


class Opened:
    """A model that is opened once, with its chat template and without."""

    def __init__(self, reference: str, chat: bool | None, remote: RemoteConfig | None) -> None:
        """Open a model, with the template for those kinds of tasks that want it."""
        self.wanted = chat
        self.with_chat = open_model(reference, remote=remote)

    @property
    def identity(self) -> str:
        """Return what tells it from others."""
        return self.with_chat.identity

    def for_kind(self, kind: Kind) -> LanguageModel:
        """Return the model as a kind of task asks it."""
        chat = kind.chat if self.wanted is None else self.wanted
        if chat or not isinstance(self.with_chat, LocalModel):
            return self.with_chat
        return LocalModel(self.with_chat.model, chat=False)


def sampled(one: Prepared, model: LanguageModel, place: Path) -> list[Sample]:
    """Return the sample of each row; those that were kept are not asked again."""
    with Journal(place / f"{one.task.name}.jsonl") as journal:
        found = {row["row"]: row for row in journal.rows if "failed" not in row}
        left = [number for number in range(len(one.rows)) if number not in found]
        with progress(f"{one.task.name} ({model.name})", len(left), "rows") as advance:
            rows = [one.rows[number] for number in left]
            for number, sample in one.kind.run(one.task, rows, model):
                kept = {"row": left[number], **sample}
                journal.add(kept)
                found[kept["row"]] = kept
                advance(1)
    return [found[number] for number in range(len(one.rows))]


def counted_failures(samples: Sequence[Sample]) -> dict[str, int]:
    """Count why rows have no answer."""
    return dict(Counter(str(one["failed"]) for one in samples if "failed" in one))


def figures(name: str, every: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Return a figure of one model, or of two and their difference, on rows that all answered.

    Raises StropFailure if those are too few.
    """
    answered = [
        [one[name] for one in row]
        for row in zip(*every, strict=True)
        if not any("failed" in one for one in row)
    ]
    if len(answered) < LEAST:
        raise StropFailure(f"{len(answered)} rows were answered: too few for an interval")
    columns = [np.array(column) for column in zip(*answered, strict=True)]
    found: dict[str, Any] = {"model": estimate(columns[0]).to_json()}
    if len(columns) == 2:
        found |= {"against": estimate(columns[1]).to_json(), **compared(*columns)}
    return found


def estimate(values: Any) -> Interval:
    """Return the mean of a figure: a proportion, if all of it is 0 or 1."""
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    return wilson(int(values.sum()), len(values)) if binary else bootstrap(values)


def compared(ours: Any, theirs: Any) -> dict[str, Any]:
    """Return the difference of two models on the same rows, its p-value and what it shows."""
    if np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all():
        first, second = int((ours > theirs).sum()), int((theirs > ours).sum())
        difference = paired_proportions(first, second, len(ours))
        p = mcnemar(ours, theirs)
    else:
        difference = paired_difference(ours, theirs)
        p = permutation_test(ours, theirs)
    word = verdict(difference, lower_is_better=False)
    return {"difference": difference.to_json(), "p": p, "verdict": word}


def correct(tasks: Mapping[str, Any]) -> None:
    """Note for each task's first figure the p-value that holds for all tasks together."""
    first = [next(iter(task["figures"].values())) for task in tasks.values()]
    for figure, p in zip(first, holm([one["p"] for one in first]), strict=True):
        figure["p_holm"] = p


def spelled(facts: Mapping[str, Any]) -> str:
    """Say what was measured, a line for each figure."""
    lines = []
    for name, task in facts["tasks"].items():
        how = ["in the chat template" if one else "as plain text" for one in task["chat"]]
        asked = " and ".join(dict.fromkeys(how))
        lines.append(f"{name}: {task['title']}; {task['rows']} rows, asked {asked}")
        for failed in task["failed"]:
            lines += [f"  {count} without an answer: {why}" for why, count in failed.items()]
        lines += [f"  {figure:<22} {line_of(found)}" for figure, found in task["figures"].items()]
    return "\n".join(lines)


def line_of(found: Mapping[str, Any]) -> str:
    """Say a figure of one model, or of two."""
    ours = Interval(**found["model"]).scaled(100)
    if "difference" not in found:
        return f"{ours:.1f}%  n = {ours.n}"
    theirs, difference = (Interval(**found[key]).scaled(100) for key in ("against", "difference"))
    p = f"p = {found['p']:.3f}"
    if "p_holm" in found:
        p += f", {found['p_holm']:.3f} with all tasks"
    return (
        f"{ours.estimate:.1f}% against {theirs.estimate:.1f}%: {difference:+.1f} points, {p}: "
        f"{found['verdict']}  n = {ours.n}"
    )


def described() -> str:
    """Name the tasks that come with Strop."""
    return "\n".join(f"{name:<16} {open_task(name).title}" for name in task_names())
