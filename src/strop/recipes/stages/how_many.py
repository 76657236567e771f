"""The stage `how-many`: how many examples are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.recipes.options import ModelReference, RowsFile, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Section,
    Stage,
    Tile,
)
from strop.stats import Interval

OUTPUT = "runs"  # directory of the runs
#: What is the same for all sizes -> what is said of it
ARMS = {
    "epochs": "every size is read as often, so small ones are trained for fewer steps",
    "steps": "every size is trained for as many steps, so small ones are read more often",
}


@dataclass(frozen=True)
class HowManyOptions:
    """What is trained, and on which subsets."""

    data: RowsFile  #: JSON lines: prompts or instructions, and answers
    model: ModelReference  #: what is trained, with adapters
    halvings: int = 5  #: sizes: all of the examples, a half, a quarter, ...
    seeds: int = 3  #: runs of each size, each on subsets of its own
    arms: tuple[str, ...] = ("epochs", "steps")  #: what all sizes have in common: one, or both
    epochs: float = 1.0  #: how often all of the examples are read
    batch: int = 16  #: examples between two updates
    learning_rate: float = 2e-4  #: at its peak

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        self.config(0)

    def config(self, seed: int) -> Any:
        """Return the settings of the runs."""
        from strop.selection.how_many import HowManyConfig
        from strop.training.schedule import TrainingConfig

        training = TrainingConfig(
            learning_rate=self.learning_rate, epochs=self.epochs, batch=self.batch
        )
        return HowManyConfig(self.halvings, self.seeds, seed, self.arms, training=training)


def run(options: HowManyOptions, context: Context) -> Metrics:
    """Train on nested subsets."""
    from strop.selection.how_many import how_many

    output = context.directory / OUTPUT
    return how_many(
        options.model, Path(options.data), output, options.config(context.seed), context.work
    )


def describe(options: HowManyOptions) -> str:
    """Say what the stage does."""
    return f"find how many examples of {label(options.data)} are enough for {label(options.model)}"


def section(stages: Sequence[Finished]) -> Section:
    """Report the answer of each arm, and the losses that it was read from."""
    return Section(
        "How many examples are enough",
        " ".join(map(summary, stages)),
        notes=(
            *(f"Equal {arm}: {words}." for arm, words in ARMS.items() if used(arm, stages)),
            "Enough gives 95% of what all of the examples give over no training, on held-out "
            "prompts. Intervals are over seeds, each with subsets of its own.",
        ),
        tiles=tuple(
            Tile(f"{one['size']['estimate']:,.0f}", f"{stage.name}: enough, equal {arm}")
            for stage in stages
            for arm, one in stage.metrics["answers"].items()
            if one["verdict"] == "enough"
        ),
        headline=tuple(row for stage in stages for row in headline(stage, len(stages) > 1)),
        figures=tuple(
            Figure(f"{stage.name}: losses of a token, in nats, by the size", plot(stage))
            for stage in stages
        ),
        caveats=(
            "Losses are not everything: a model may go on to lose loss long after its answers "
            "stopped getting better.",
        ),
    )


def used(arm: str, stages: Sequence[Finished]) -> bool:
    """Tell whether a stage has some arm."""
    return any(arm in stage.metrics["answers"] for stage in stages)


def summary(stage: Finished) -> str:
    """Say the answers."""
    from strop.selection.how_many import spelled

    return f"{stage.name}: {'. '.join(spelled(stage.metrics).splitlines())}."


def headline(stage: Finished, several: bool) -> list[Headline]:
    """Return what is enough in each arm, and the loss with all examples, which arms share."""
    m, tail = stage.metrics, f" ({stage.name})" if several else ""
    rows = []
    for arm, one in m["answers"].items():
        if one["size"]:
            size = Interval(**one["size"])
            rows.append(
                Headline(
                    f"Examples that are enough, equal {arm}{tail}",
                    f"{m['examples']:,}",
                    f"{size:,.0f}",
                    "",
                    one["verdict"],
                    f"{size.n} seeds",
                )
            )
    gains = [one["gain"] for one in m["answers"].values() if one["gain"]]
    if gains:
        gain = Interval(**gains[0])
        change = Interval(-gain.estimate, -gain.high, -gain.low, gain.n)
        rows.append(
            Headline(
                f"Held-out loss, trained on all examples{tail}",
                f"{m['untrained']:.3f}",
                f"{m['untrained'] - gain.estimate:.3f}",
                f"{change:+.3f}",
                "nats per token",
                f"{gain.n} seeds",
            )
        )
    return rows


def plot(stage: Finished) -> str:
    """Draw the losses of the runs."""
    from strop.selection.how_many import drawn

    return drawn(stage.metrics["runs"], stage.options.arms)


HOW_MANY = Stage(HowManyOptions, run, describe, section)
