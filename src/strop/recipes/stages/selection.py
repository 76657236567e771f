"""The stages `rate`, `score`, `select` and `eval`: which examples to train on, and did it help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strop.recipes.options import ModelReference, RowsFile, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Output,
    Section,
    Stage,
    Table,
    Tile,
)
from strop.stats import Interval
from strop.svg import Bar, Whisker, bars, whiskers

OUTPUT = "rows"  # directory of the rows


@dataclass(frozen=True)
class RateOptions:
    """What is rated, and by what."""

    data: RowsFile  #: JSON lines: prompts or instructions, and answers
    rater: ModelReference  #: model that rates
    rubric: str = "accuracy"  #: accuracy, helpfulness, or a YAML file
    limit: int = 0  #: rate the first so many rows; 0: all

    def __post_init__(self) -> None:
        """Raise StropError for a rubric that is not known."""
        from strop.selection.rubric import open_rubric

        open_rubric(self.rubric)


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored, and how."""

    data: RowsFile  #: JSON lines: prompts or instructions, and answers
    scores: tuple[str, ...] = ("length", "ifd")  #: see strop score --help
    model: ModelReference | None = None  #: that reads the rows
    target: RowsFile | None = None  #: rows like those that the model is for
    limit: int = 0  #: score the first so many rows; 0: all


@dataclass(frozen=True)
class SelectOptions:
    """What is chosen."""

    data: RowsFile  #: rows with scores: the output of a stage `rate` or `score`
    by: str = "random"  #: what ranks rows: a score, a product, random, k-center, ...
    keep: int = 0  #: rows to keep; 0: all that are left
    least: dict[str, float] = field(default_factory=dict)  #: score -> drop rows below
    most: dict[str, float] = field(default_factory=dict)  #: score -> drop rows above
    per_category: int = 0  #: rows to keep of a category; 0: no quota
    duplicates: bool = False  #: whether near-duplicates of better rows are kept
    distinct: float = 1.0  #: drop rows whose cosine to one that is kept is larger
    model: ModelReference | None = None  #: that embeds rows

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        select_config(self, 0)


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and against what."""

    model: ModelReference  #: the model under test
    tasks: tuple[str, ...]  #: names, or YAML files
    against: ModelReference | None = None  #: another model, on the same rows
    limit: int = 0  #: take the first so many rows of each task; 0: all
    chat: bool | None = None  #: whether prompts go into the chat template; by the kind of task

    def __post_init__(self) -> None:
        """Raise StropError for tasks that are not known."""
        from strop.evaluation.tasks import open_task

        for name in self.tasks:
            open_task(name)


def select_config(options: SelectOptions, seed: int) -> Any:
    """Return the settings of a selection."""
    from strop.selection.select import SelectConfig

    return SelectConfig(
        by=options.by,
        keep=options.keep,
        least=options.least,
        most=options.most,
        per_category=options.per_category,
        duplicates=options.duplicates,
        distinct=options.distinct,
        model=options.model or "",
        seed=seed,
    )


def run_rate(options: RateOptions, context: Context) -> Metrics:
    """Rate rows."""
    from strop.selection.rate import rate

    output, data = context.directory / OUTPUT, Path(options.data)
    return rate(data, options.rater, output, options.rubric, limit=options.limit, work=context.work)


def run_score(options: ScoreOptions, context: Context) -> Metrics:
    """Score rows."""
    from strop.selection.scores import score

    return score(
        Path(options.data),
        options.scores,
        context.directory / OUTPUT,
        options.model,
        Path(options.target) if options.target else None,
        options.limit,
        context.work,
    )


def run_select(options: SelectOptions, context: Context) -> Metrics:
    """Choose rows."""
    from strop.selection.select import select

    config = select_config(options, context.seed)
    return select(Path(options.data), context.directory / OUTPUT, config, context.work)


def run_eval(options: EvalOptions, context: Context) -> Metrics:
    """Evaluate a model."""
    from strop.evaluation.evaluate import evaluate

    return evaluate(
        options.model,
        options.tasks,
        context.directory / OUTPUT,
        options.against,
        options.limit,
        options.chat,
        work=context.work,
    )


def describe_rate(options: RateOptions) -> str:
    """Say what the stage does."""
    return f"rate {label(options.data)} by {options.rubric}, with {label(options.rater)}"


def describe_score(options: ScoreOptions) -> str:
    """Say what the stage does."""
    return f"score {label(options.data)}: {', '.join(options.scores)}"


def describe_select(options: SelectOptions) -> str:
    """Say what the stage does."""
    count = f"{options.keep} rows" if options.keep else "rows"
    return f"choose {count} of {label(options.data)}, by {options.by}"


def describe_eval(options: EvalOptions) -> str:
    """Say what the stage does."""
    against = f", against {label(options.against)}" if options.against else ""
    return f"evaluate {label(options.model)}{against}: {', '.join(options.tasks)}"


def section_rate(stages: Sequence[Finished]) -> Section:
    """Report how many rows have which grade."""
    figures, parts = [], []
    for stage in stages:
        m = stage.metrics
        unrated = sum(m["unrated"].values())
        parts.append(f"{stage.name}: {m['rated']} of {m['rows']} rows rated, {unrated} without.")
        if m["grades"]:
            rows = [Bar(grade, float(count), f"{count:,}") for grade, count in m["grades"].items()]
            caption = f"{stage.name}: rows by their grade of {m['rubric']}"
            figures.append(Figure(caption, bars(rows)))
    return Section("Rating", " ".join(parts), figures=tuple(figures))


def section_score(stages: Sequence[Finished]) -> Section:
    """Report how many rows have which score."""
    parts = [
        f"{stage.name}: "
        + ", ".join(f"{name} of {count:,}" for name, count in stage.metrics["scored"].items())
        + f" of {stage.metrics['rows']:,} rows."
        for stage in stages
    ]
    return Section("Scores", " ".join(parts))


def section_select(stages: Sequence[Finished]) -> Section:
    """Report what was chosen, and why the rest was not."""
    tables, parts, tiles = [], [], []
    for stage in stages:
        m = stage.metrics
        parts.append(f"{stage.name}: {m['kept']:,} of {m['rows']:,} rows, by {stage.options.by}.")
        tiles.append(Tile(f"{m['kept']:,}", f"{stage.name}: rows of {m['rows']:,}"))
        rows = tuple((reason, f"{count:,}") for reason, count in m["dropped"].items())
        if rows:
            tables.append(Table((f"{stage.name}: dropped because", "Rows"), rows))
    note = "What changed in lengths, categories and scores is in report.md of each stage."
    return Section(
        "Selection", " ".join(parts), notes=(note,), tiles=tuple(tiles), tables=tuple(tables)
    )


def section_eval(stages: Sequence[Finished]) -> Section:
    """Report figures, and differences of two models."""
    headline, rows = [], []
    for stage in stages:
        for name, task in stage.metrics["tasks"].items():
            for figure, found in task["figures"].items():
                headline.append(figure_row(f"{name}, {figure} ({stage.name})", found))
                if "difference" in found:
                    one = Interval(**found["difference"]).scaled(100)
                    words = f"{one:+.1f} points"
                    rows.append(
                        Whisker(f"{name}, {figure}", one.estimate, one.low, one.high, words)
                    )
    plot = Figure("Differences of two models on the same rows", whiskers(rows, "points", 0.0))
    return Section(
        "Evaluation",
        " ".join(describe_eval(stage.options).capitalize() + "." for stage in stages),
        headline=tuple(headline),
        figures=(plot,) if rows else (),
        caveats=(
            "Built-in tasks are parts of well-known sets, which models may have been trained on.",
        ),
    )


def figure_row(measure: str, found: Mapping[str, Any]) -> Headline:
    """Return a row of the table at the top."""
    ours = Interval(**found["model"]).scaled(100)
    if "difference" not in found:
        return Headline(measure, "", f"{ours:.1f}%", "", "", str(ours.n))
    theirs, difference = (Interval(**found[key]).scaled(100) for key in ("against", "difference"))
    return Headline(
        measure,
        f"{theirs.estimate:.1f}%",
        f"{ours.estimate:.1f}%",
        f"{difference:+.1f} points",
        found["verdict"],
        str(ours.n),
    )


RATE = Stage(RateOptions, run_rate, describe_rate, section_rate, Output(OUTPUT, RowsFile))
SCORE = Stage(ScoreOptions, run_score, describe_score, section_score, Output(OUTPUT, RowsFile))
SELECT = Stage(SelectOptions, run_select, describe_select, section_select, Output(OUTPUT, RowsFile))
EVAL = Stage(EvalOptions, run_eval, describe_eval, section_eval)
