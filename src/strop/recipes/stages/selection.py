"""The stages `rate`, `score` and `select`: which examples to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strop.lm import RemoteConfig
from strop.recipes.options import (
    LanguageModelReference,
    ModelReference,
    RankerReference,
    RowsFile,
    RubricReference,
    label,
)
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Metrics,
    Output,
    Section,
    Stage,
    Table,
    Tile,
)
from strop.svg import Bar, bars

OUTPUT = "rows"  # directory of the rows
ACCURACY = RubricReference("accuracy")


@dataclass(frozen=True)
class RateOptions:
    """What is rated, and by what."""

    data: RowsFile  #: JSON lines: prompts or instructions, and answers
    rater: LanguageModelReference  #: model that rates, or an endpoint, http://host/v1#name
    rubric: RubricReference = ACCURACY  #: name of a rubric, or a YAML file
    limit: int = 0  #: rate the first so many rows; 0: all
    endpoint: RemoteConfig = field(default_factory=RemoteConfig)  #: how one is used


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored, and how."""

    data: RowsFile  #: JSON lines: prompts or instructions, and answers
    scores: tuple[str, ...] = ("length", "ifd")  #: see strop score --help
    model: ModelReference | None = None  #: that reads the rows
    target: RowsFile | None = None  #: rows like those that the model is for
    ranker: RankerReference | None = None  #: a pointwise one, for rewards
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

    return rate(
        Path(options.data),
        options.rater,
        context.directory / OUTPUT,
        options.rubric,
        options.endpoint,
        options.limit,
        context.work,
    )


def run_score(options: ScoreOptions, context: Context) -> Metrics:
    """Score rows."""
    from strop.selection.scores import score

    return score(
        Path(options.data),
        options.scores,
        context.directory / OUTPUT,
        options.model,
        Path(options.target) if options.target else None,
        Path(options.ranker) if options.ranker else None,
        options.limit,
        context.work,
    )


def run_select(options: SelectOptions, context: Context) -> Metrics:
    """Choose rows."""
    from strop.selection.select import select

    config = select_config(options, context.seed)
    return select(Path(options.data), context.directory / OUTPUT, config, context.work)


def describe_rate(options: RateOptions) -> str:
    """Say what the stage does."""
    return f"rate {label(options.data)} by {label(options.rubric)}, with {label(options.rater)}"


def describe_score(options: ScoreOptions) -> str:
    """Say what the stage does."""
    return f"score {label(options.data)}: {', '.join(options.scores)}"


def describe_select(options: SelectOptions) -> str:
    """Say what the stage does."""
    count = f"{options.keep} rows" if options.keep else "rows"
    return f"choose {count} of {label(options.data)}, by {options.by}"


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


RATE = Stage(RateOptions, run_rate, describe_rate, section_rate, Output(OUTPUT, RowsFile))
SCORE = Stage(ScoreOptions, run_score, describe_score, section_score, Output(OUTPUT, RowsFile))
SELECT = Stage(SelectOptions, run_select, describe_select, section_select, Output(OUTPUT, RowsFile))
