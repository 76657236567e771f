"""The stage `trial`: does choosing rows help?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.recipes.options import ModelReference, RowsFile, TaskReference, label
from strop.recipes.stage import Context, Figure, Finished, Headline, Metrics, Section, Stage
from strop.stats import Interval

OUTPUT = "runs"  # directory of the runs


@dataclass(frozen=True)
class TrialOptions:
    """What is trained, on what."""

    data: RowsFile  #: rows with scores: the output of a stage `rate` or `score`
    model: ModelReference  #: what is trained, with adapters
    by: tuple[str, ...]  #: selectors, each as `by` of a stage `select`
    keep: int  #: rows of each run
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
    processes: int = 1  #: runs at a time

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        from strop.selection.trial_plan import budget

        self.config()
        budget(self.selectors())

    def config(self) -> Any:
        """Return the settings of the runs."""
        from strop.selection.trial import TrialConfig
        from strop.selection.trial_plan import Runs
        from strop.training.network import NetworkConfig
        from strop.training.schedule import TrainingConfig

        return TrialConfig(
            runs=Runs(self.parts, self.random, self.more),
            tasks=tuple(self.tasks),
            limit=self.limit,
            network=NetworkConfig(dtype=self.dtype),
            training=TrainingConfig(
                learning_rate=self.learning_rate, epochs=self.epochs, batch=self.batch
            ),
        )

    def selectors(self) -> dict[str, Any]:
        """Return what chooses, by its name."""
        from strop.selection.select import SelectConfig

        model = self.embedder or ""
        return {name: SelectConfig(by=name, keep=self.keep, model=model) for name in self.by}


def run(options: TrialOptions, context: Context) -> Metrics:
    """Train on what each selector chooses, and on random rows."""
    from strop.selection.trial import trial

    return trial(
        options.model,
        Path(options.data),
        context.directory / OUTPUT,
        options.selectors(),
        options.config(),
        Path(options.tests) if options.tests else None,
        options.processes,
        context.work,
    )


def describe(options: TrialOptions) -> str:
    """Say what the stage does."""
    return f"try {', '.join(options.by)} beside random rows of {label(options.data)}"


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
        for name, one in found["selectors"].items():
            against = one["against"]["random"]
            rows.append(
                Headline(
                    f"{measure}: {name} against random rows ({stage.name})",
                    f"{found['random']['mean']:.4f}",
                    f"{one['mean']:.4f}",
                    f"{Interval(**against['difference']):+.4f}",
                    against["verdict"],
                    f"{found['n']} rows, {stage.options.parts} and {stage.options.random} runs",
                )
            )
    return rows


TRIAL = Stage(TrialOptions, run, describe, section)
