"""Evaluate a model on tasks, alone or beside another on the same rows.

OUTPUT/results.json        figures with intervals, and differences
OUTPUT/lm_eval.json        the figures as lm-evaluation-harness writes them; of the other model in
                           lm_eval-against.json
OUTPUT/samples/NAME.jsonl  every row of a task: what was asked, answered, and right
OUTPUT/against/NAME.jsonl  the same of the other model
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.console import progress, say
from strop.data import sha256_json, write_json, write_rows
from strop.data.journal import Journal
from strop.errors import StropError, StropFailure
from strop.evaluation.figures import LEAST, decide, figures, unmeasured
from strop.evaluation.harness import harness_results
from strop.evaluation.kinds import Kind, kind_of
from strop.evaluation.samples import Sample
from strop.evaluation.sandbox import isolation
from strop.evaluation.tasks import Row, Task, open_task, task_names, task_rows
from strop.lm import LanguageModel, LocalModel, RemoteConfig, RemoteModel, open_model
from strop.stage import Facts, run_stage
from strop.stats import Interval, spelled_difference, spelled_figure, spelled_p

RESULTS, SAMPLES, AGAINST = "results.json", "samples", "against"
HARNESS = ("lm_eval.json", "lm_eval-against.json")


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
    kept as it comes: who is killed goes on where he was. A task of which fewer than two rows were
    answered has no figures. Raises StropError for unknown tasks and for what an endpoint cannot do,
    and StropFailure if no task has figures.
    """
    if 0 < limit < LEAST:
        raise StropError(f"at least {LEAST} rows are needed for an interval: the limit is {limit}")
    if not tasks:
        raise StropError("which tasks?  strop eval --list  names them")
    prepared = [prepare(name, limit) for name in tasks]
    if len({one.task.name for one in prepared}) != len(prepared):
        raise StropError("two tasks have one name")
    models = [Opened(name, chat, remote) for name in (model, against) if name is not None]
    for each in models:
        each.check(prepared)
    remotes = [n for n, one in enumerate(models) if isinstance(one.with_chat, RemoteModel)]
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
            chats = [each.for_kind(one.kind).chat for each in models]
            facts["tasks"][one.task.name] = measured(one, every, chats)
        if not any(task["figures"] for task in facts["tasks"].values()):
            why = [f"{name}: {task['unmeasured']}" for name, task in facts["tasks"].items()]
            raise StropFailure("; ".join(why))
        if against is not None:
            decide(facts["tasks"])
        write_json(directory / RESULTS, facts)
        for number, name in enumerate(HARNESS[: len(models)]):
            write_json(directory / name, harness_results(facts, number))
        return facts

    def resume(facts: Facts) -> list[str]:
        every = facts["tasks"]
        failed = [task["failed"][number] for task in every.values() for number in remotes]
        folders = (SAMPLES, AGAINST)[: len(models)] if any(failed) else ()
        return [f"{folder}/{name}.jsonl" for folder in folders for name in every]

    return run_stage("eval", output, settings, inputs, make, work, resume)


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
    records = task_rows(task, limit)
    usable: list[Row] = []
    reasons = Counter(one.reason for one in records.rejected)
    for row in records.rows:
        try:
            task.asked(row)
            kind.check(task, row)
            usable.append(row)
        except StropError as error:
            reasons[str(error).removeprefix(f"task {task.name}: ")[:120]] += 1
    total = len(records.rows) + len(records.rejected)
    if not usable:
        reason, count = reasons.most_common(1)[0]
        raise StropError(f"{task.name}: no row can be asked; {count} of {total}: {reason}")
    if reasons:
        reason, count = reasons.most_common(1)[0]
        why = f"most often ({count}): {reason}"
        say(f"{task.name}: {total - len(usable)} of {total} rows cannot be asked, {why}")
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

    def check(self, tasks: Sequence[Prepared]) -> None:
        """Raise StropError for tasks that the model cannot do."""
        if not isinstance(self.with_chat, RemoteModel):
            return
        name = self.with_chat.name
        if given := [one.task.name for one in tasks if one.kind.given]:
            raise StropError(
                f"{name}: endpoints score no given answers, which {', '.join(given)} need: use a "
                "local model, or other tasks"
            )
        if plain := [one.task.name for one in tasks if not self.in_chat(one.kind)]:
            raise StropError(
                f"{name}: an endpoint continues no plain text, as {', '.join(plain)} would be "
                "asked: ask in its chat template with --chat, or use a local model"
            )

    def in_chat(self, kind: Kind) -> bool:
        """Tell whether a kind of task is asked in the chat template."""
        return kind.chat if self.wanted is None else self.wanted

    def for_kind(self, kind: Kind) -> LanguageModel:
        """Return the model as a kind of task asks it."""
        if self.in_chat(kind) or not isinstance(self.with_chat, LocalModel):
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


def measured(one: Prepared, every: Sequence[Sequence[Sample]], chat: Sequence[bool]) -> Facts:
    """Return what was found of a task by the samples of each model."""
    found: Facts = {
        "title": one.task.title,
        "kind": one.task.kind,
        "hash": one.hash,
        "shots": len(one.task.examples),
        "loss": one.kind.loss,
        "rows": len(one.rows),
        "left_out": one.left_out,
        "chat": list(chat),
        "failed": [counted_failures(samples) for samples in every],
        "figures": figures(one.kind.figures(one.task), every),
    }
    if not found["figures"]:
        found["unmeasured"] = unmeasured(len(one.rows), found["failed"])
    if one.task.kind == "code":
        found["isolation"] = isolation()
    return found


def counted_failures(samples: Sequence[Sample]) -> dict[str, int]:
    """Count why rows have no answer."""
    return dict(Counter(str(one["failed"]) for one in samples if "failed" in one))


def spelled(facts: Mapping[str, Any]) -> str:
    """Say what was measured, a line for each figure."""
    lines = []
    for name, task in facts["tasks"].items():
        how = ["in the chat template" if one else "as plain text" for one in task["chat"]]
        asked = " and ".join(dict.fromkeys(how))
        lines.append(f"{name}: {task['title']}; {task['rows']} rows, asked {asked}")
        for failed in task["failed"]:
            lines += [f"  {count} without an answer: {why}" for why, count in failed.items()]
        if "unmeasured" in task:
            lines.append(f"  no figures: {task['unmeasured']}")
        if "isolation" in task:
            lines.append(f"  programs ran with {task['isolation']}")
        lines += [
            f"  {figure:<22} {line_of(found, task['loss'])}"
            for figure, found in task["figures"].items()
        ]
    return "\n".join(lines)


def line_of(found: Mapping[str, Any], loss: bool) -> str:
    """Say a figure of one model, or of two: shares in percent, losses as they are."""
    ours = Interval(**found["model"])
    if "against" not in found:
        return f"{spelled_figure(ours, loss)}  n = {ours.n}"
    theirs = Interval(**found["against"])
    both = " against ".join(spelled_figure(one.estimate, loss) for one in (ours, theirs))
    if "difference" not in found:
        return f"{both}: of different tokens, which cannot be compared  n = {ours.n}"
    difference = spelled_difference(Interval(**found["difference"]), loss)
    shown = spelled_p(found["p"])
    if "verdict" in found:
        shown += f", {spelled_p(found['p_holm'])} with all tasks: {found['verdict']}"
    return f"{both}: {difference}, {shown}  n = {ours.n}"


def described() -> str:
    """Name the tasks that come with Strop."""
    return "\n".join(f"{name:<16} {open_task(name).title}" for name in task_names())
