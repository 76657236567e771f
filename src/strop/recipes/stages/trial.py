"""The stage `trial`: does choosing rows help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from strop.data import read_text
from strop.data.document import read_document
from strop.errors import StropError
from strop.recipes.options import ModelReference, Processes, RowsFile, TaskReference, convert, label
from strop.recipes.stage import Context, Figure, Finished, Headline, Metrics, Section, Stage
from strop.stats import Interval, spelled_difference, spelled_figure

OUTPUT = "runs"  # directory of the runs
ONE = Processes(1)


@dataclass(frozen=True)
class Selector:
    """A way to choose rows, as in a stage `select`."""

    by: str = "random"  #: what ranks rows
    least: dict[str, float] = field(default_factory=dict)  #: score -> drop rows below
    most: dict[str, float] = field(default_factory=dict)  #: score -> drop rows above
    per_category: int = 0  #: rows to keep of a category; 0: no quota
    duplicates: bool = False  #: whether rows that nearly repeat a better one are kept
    distinct: float = 1.0  #: drop rows whose cosine to one that is kept is larger


@dataclass(frozen=True)
class TrialOptions:
    """What is trained, on what."""

    data: RowsFile  #: rows with scores: the output of a stage `rate` or `score`
    model: ModelReference  #: what is trained, with adapters
    keep: int  #: rows of each run
    by: tuple[str, ...] = ()  #: selectors, each as `by` of a stage `select`
    selectors: dict[str, Selector] = field(default_factory=dict)  #: more of them, with their rules
    embedder: ModelReference | None = None  #: that embeds rows, for k-center, facility-location
    tests: RowsFile | None = None  #: rows to test on; a tenth of the prompts, if not given
    tasks: tuple[TaskReference, ...] = ()  #: that each tuned model is asked
    limit: int = 100  #: rows of each task; 0: all
    parts: int = 3  #: that rows are dealt into: runs of each selector
    random: int = 5  #: runs on random rows
    more: float = 0.0  #: times the rows of other random runs; 0: none
    epochs: float = 1.0  #: how often each row is learned from
    batch: int = 16  #: rows between two updates
    learning_rate: float = 2e-4  #: at its peak
    dtype: str = "float32"  #: of frozen weights and activations
    processes: Processes = ONE  #: runs at a time

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        from strop.selection.trial_plan import budget

        self.config(0)
        budget(self.chosen())

    def config(self, seed: int) -> Any:
        """Return the settings of the runs."""
        from strop.selection.trial import TrialConfig
        from strop.selection.trial_plan import Runs
        from strop.training.network import NetworkConfig
        from strop.training.schedule import TrainingConfig

        return TrialConfig(
            runs=Runs(self.parts, self.random, self.more, seed),
            tasks=tuple(self.tasks),
            limit=self.limit,
            network=NetworkConfig(dtype=self.dtype),
            training=TrainingConfig(
                learning_rate=self.learning_rate, epochs=self.epochs, batch=self.batch
            ),
        )

    def chosen(self) -> dict[str, Any]:
        """Return what chooses, by its name."""
        return select_configs(self.by, self.selectors, self.keep, self.embedder or "")


def read_selectors(path: Path) -> dict[str, Selector]:
    """Read a YAML file of selectors: a name, and its rules. Raises StropError for a bad one."""
    document = read_document(read_text(path), lambda line: f"{path}:{line}")
    found: dict[str, Selector] = convert(document, dict[str, Selector])
    return found


def select_configs(
    by: Sequence[str], more: Mapping[str, Selector], keep: int, embedder: str
) -> dict[str, Any]:
    """Return the settings of each selection by its name. Raises StropError for two of one name."""
    from strop.selection.select import SelectConfig

    names = [*by, *more]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StropError(f"two selectors are called {twice[0]}")
    selectors = {name: Selector(by=name) for name in by} | dict(more)
    return {
        name: SelectConfig(**asdict(one), keep=keep, model=embedder)
        for name, one in selectors.items()
    }


def run(options: TrialOptions, context: Context) -> Metrics:
    """Train on what each selector chooses, and on random rows."""
    from strop.selection.trial import trial

    return trial(
        options.model,
        Path(options.data),
        context.directory / OUTPUT,
        options.chosen(),
        options.config(context.seed),
        Path(options.tests) if options.tests else None,
        options.processes,
        context.work,
    )


def describe(options: TrialOptions) -> str:
    """Say what the stage does."""
    names = ", ".join([*options.by, *options.selectors])
    return f"try {names} beside random rows of {label(options.data)}"


def section(stages: Sequence[Finished]) -> Section:
    """Report each selector beside random rows."""
    from strop.selection.trial_report import LOSS, drawn, summary

    return Section(
        "Does choosing help",
        " ".join(f"{stage.name}: {summary(stage.metrics)}" for stage in stages),
        notes=(
            "Intervals are over runs, of which each has rows of its own, and over the rows of the "
            "test; verdicts are corrected for all selectors together.",
        ),
        headline=tuple(row for stage in stages for row in headline(stage)),
        figures=tuple(
            Figure(f"{stage.name}: differences of the loss", drawn(stage.metrics["measures"][LOSS]))
            for stage in stages
        ),
    )


def headline(stage: Finished) -> list[Headline]:
    """Return a row for each measure and selector."""
    rows = []
    for measure, found in stage.metrics["measures"].items():
        loss = found["lower_is_better"]
        for name, one in found["selectors"].items():
            against = one["against"]["random"]
            rows.append(
                Headline(
                    f"{measure}: {name} against random rows ({stage.name})",
                    spelled_figure(found["random"]["mean"], loss),
                    spelled_figure(one["mean"], loss),
                    spelled_difference(Interval(**against["difference"]), loss),
                    against["verdict"],
                    f"{found['n']} rows, {stage.options.parts} and {stage.options.random} runs",
                )
            )
    return rows


TRIAL = Stage(TrialOptions, run, describe, section)
