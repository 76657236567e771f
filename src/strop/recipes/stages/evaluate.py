"""The stage `eval`: how good a model is at tasks, alone or beside another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strop.lm import RemoteConfig
from strop.recipes.options import LanguageModelReference, TaskReference, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Section,
    Stage,
)
from strop.stats import Interval, spelled_difference, spelled_figure, spelled_p
from strop.svg import Whisker, whiskers

OUTPUT = "results"  # directory of what was measured


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and against what."""

    model: LanguageModelReference  #: the model under test, or an endpoint, http://host/v1#name
    tasks: tuple[TaskReference, ...]  #: names, or YAML files
    against: LanguageModelReference | None = None  #: another model, on the same rows
    limit: int = 0  #: take the first so many rows of each task; 0: all
    chat: bool | None = None  #: whether prompts go into the chat template; by the kind of task
    endpoint: RemoteConfig = field(default_factory=RemoteConfig)  #: how one is used


def run(options: EvalOptions, context: Context) -> Metrics:
    """Evaluate a model."""
    from strop.evaluation.evaluate import evaluate

    return evaluate(
        options.model,
        options.tasks,
        context.directory / OUTPUT,
        options.against,
        options.limit,
        options.chat,
        options.endpoint,
        context.work,
    )


def describe(options: EvalOptions) -> str:
    """Say what the stage does."""
    against = f", against {label(options.against)}" if options.against else ""
    return f"evaluate {label(options.model)}{against}: {', '.join(map(label, options.tasks))}"


def section(stages: Sequence[Finished]) -> Section:
    """Report figures, and differences of two models."""
    rows = [
        (stage, name, task, figure, found)
        for stage in stages
        for name, task in stage.metrics["tasks"].items()
        for figure, found in task["figures"].items()
    ]
    figures = []
    for title, unit, loss in (("figures", "points", False), ("losses", "nats or bits", True)):
        drawn = [
            difference(f"{name}, {figure}", found, loss)
            for _, name, task, figure, found in rows
            if task["loss"] == loss and "difference" in found
        ]
        if drawn:
            caption = f"Differences of {title} of two models on the same rows"
            figures.append(Figure(caption, whiskers(drawn, unit, 0.0)))
    return Section(
        "Evaluation",
        " ".join(f"{stage.name}: {describe(stage.options)}." for stage in stages),
        headline=tuple(
            figure_row(f"{name}, {figure} ({stage.name})", found, task["loss"])
            for stage, name, task, figure, found in rows
        ),
        notes=(
            "Of two models, the p-values of the tasks' first figures are corrected for all tasks "
            "of a stage (Holm), and a word needs one below 0.05. The other figures have no word.",
        )
        if figures
        else (),
        figures=tuple(figures),
        caveats=(
            "Built-in tasks are parts of well-known sets, which models may have been trained on.",
            *(
                f"{name} ({stage.name}) has no figures: {task['unmeasured']}."
                for stage in stages
                for name, task in stage.metrics["tasks"].items()
                if "unmeasured" in task
            ),
        ),
    )


def difference(label: str, found: Mapping[str, Any], loss: bool) -> Whisker:
    """Return a difference of two models as a row of a plot."""
    one = Interval(**found["difference"])
    drawn = one.scaled(1 if loss else 100)
    words = spelled_difference(one, loss)
    return Whisker(label, drawn.estimate, drawn.low, drawn.high, words)


def figure_row(measure: str, found: Mapping[str, Any], loss: bool) -> Headline:
    """Return a row of the table at the top: shares in per cent, losses as they are."""
    ours = Interval(**found["model"])
    if "against" not in found:
        return Headline(measure, "", spelled_figure(ours, loss), "", "", str(ours.n))
    theirs = Interval(**found["against"])
    change, reading = "", "of different tokens"
    if "difference" in found:
        change = spelled_difference(Interval(**found["difference"]), loss)
        reading = spelled_p(found.get("p_holm", found["p"]))
        if "verdict" in found:
            reading = f"{found['verdict']}, {reading}"
    return Headline(
        measure,
        spelled_figure(theirs.estimate, loss),
        spelled_figure(ours.estimate, loss),
        change,
        reading,
        str(ours.n),
    )


EVAL = Stage(EvalOptions, run, describe, section)
