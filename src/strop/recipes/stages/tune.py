"""The stages `sft`, `ranker` and `preference`: what trains a model, or a ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from strop.data import read_rows
from strop.recipes.options import LossName, ModelReference, RankerReference, RowsFile, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Output,
    Section,
    Stage,
    Tile,
)
from strop.stats import Interval

OUTPUT = "tuned"  # directory of the adapter, model or ranker
SLIC = LossName("slic")


@dataclass(frozen=True)
class TrainingOptions:
    """What all three have in common."""

    model: ModelReference  #: what is trained
    data: RowsFile  #: JSON lines
    columns: dict[str, str] = field(default_factory=dict)  #: what the data calls its columns
    learning_rate: float | None = None  #: at its peak; else by what is tuned
    epochs: float = 1.0  #: how often each prompt is learned from
    batch: int = 32  #: prompts between two updates
    schedule: str = "cosine"  #: how the learning rate falls: cosine, linear or constant
    warmup: float = 0.1  #: part of the steps in which it rises
    weight_decay: float = 0.0  #: of AdamW
    clip: float = 1.0  #: largest norm of the gradient; 0: any
    rank: int | None = None  #: of the LoRA adapters (8); 0 trains all weights
    alpha: float | None = None  #: adapters count alpha / rank times (16)
    held_out: float = 0.1  #: part of the prompts that is never trained on
    evaluate_every: int = 0  #: steps between two evaluations; 0: a quarter of all
    patience: int = 0  #: stop after so many evaluations without a better one; 0: never
    checkpointing: bool | None = None  #: compute activations again; else if memory asks for it
    dtype: str | None = None  #: of frozen weights and activations; else what is faster and fits
    room: int | None = None  #: tokens that are computed at a time; else 1,024, or what fits
    trackers: tuple[str, ...] = ()  #: tensorboard; wandb, mlflow or trackio, if installed

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        self.config(0, 1e-4)

    def config(self, seed: int, learning_rate: float) -> Any:
        """Return the configuration of the run."""
        from strop.training.network import NetworkConfig
        from strop.training.schedule import TrainingConfig
        from strop.tuning.fit import TuneConfig

        own = {one.name: getattr(self, one.name) for one in fields(TrainingOptions)}
        rate = learning_rate if self.learning_rate is None else self.learning_rate
        known = {one.name for one in fields(TrainingConfig)}
        training = {name: value for name, value in own.items() if name in known}
        network = NetworkConfig(self.rank, self.alpha, self.dtype, self.checkpointing)
        config = TrainingConfig(**training | {"learning_rate": rate, "seed": seed})
        return TuneConfig(network, config, self.held_out)


@dataclass(frozen=True)
class SftOptions(TrainingOptions):
    """Examples: prompt, completion."""


@dataclass(frozen=True)
class RankerOptions(TrainingOptions):
    """Preferences: prompt, chosen, rejected."""

    pointwise: bool = False  #: score each answer alone, instead of comparing two
    prompt_tokens: int = 256  #: the last so many tokens of a prompt are read
    answer_tokens: int = 256  #: the first so many tokens of an answer are read


@dataclass(frozen=True)
class PreferenceOptions(TrainingOptions):
    """Preferences, or what the stage `pairs` made."""

    loss: LossName = SLIC  #: see strop tune losses
    settings: dict[str, float] = field(default_factory=dict)  #: of the loss

    def __post_init__(self) -> None:
        """Raise StropError for settings that the loss has not."""
        from strop.tuning.losses import loss_settings

        super().__post_init__()
        loss_settings(self.loss, self.settings)


def run_sft(options: SftOptions, context: Context) -> Metrics:
    """Train on examples."""
    from strop.tuning.tune import SFT_RATE, tune_sft

    return tune_sft(
        options.model,
        Path(options.data),
        context.directory / OUTPUT,
        options.config(context.seed, SFT_RATE),
        options.columns or None,
        context.work,
    )


def run_ranker(options: RankerOptions, context: Context) -> Metrics:
    """Train a ranker."""
    from strop.tuning.ranker import RankerConfig
    from strop.tuning.tune import RANKER_RATE, tune_ranker

    kind = "pointwise" if options.pointwise else "pairwise"
    return tune_ranker(
        options.model,
        Path(options.data),
        context.directory / OUTPUT,
        RankerConfig(kind, options.prompt_tokens, options.answer_tokens),
        options.config(context.seed, RANKER_RATE),
        options.columns or None,
        context.work,
    )


def run_preference(options: PreferenceOptions, context: Context) -> Metrics:
    """Train on preferences."""
    from strop.tuning.losses import loss_settings
    from strop.tuning.tune import tune_preference

    row, settings = loss_settings(options.loss, options.settings)
    return tune_preference(
        options.model,
        [Path(options.data)],
        context.directory / OUTPUT,
        options.loss,
        settings,
        options.config(context.seed, row.learning_rate),
        options.columns or None,
        context.work,
    )


def describe_sft(options: SftOptions) -> str:
    """Say what the stage does."""
    return f"train {label(options.model)} on the examples of {label(options.data)}"


def describe_ranker(options: RankerOptions) -> str:
    """Say what the stage does."""
    kind = "pointwise" if options.pointwise else "pairwise"
    return f"train a {kind} ranker on {label(options.data)}"


def describe_preference(options: PreferenceOptions) -> str:
    """Say what the stage does."""
    return f"tune {label(options.model)} on {label(options.data)} with the loss {options.loss}"


def section_sft(stages: Sequence[Finished]) -> Section:
    """Report what training on examples did."""
    return section("Training on examples", stages, "Loss on held-out examples")


def section_preference(stages: Sequence[Finished]) -> Section:
    """Report what tuning on preferences did."""
    found = section("Tuning on preferences", stages, "Loss on held-out pairs")
    several = len(stages) > 1
    rows = [
        row
        for stage in stages
        for key, measure in (
            ("right", "Chosen answer is likelier, share"),
            ("margin", "Margin of chosen over rejected, nats"),
            ("chosen", "Log-probability of chosen, nats"),
        )
        for row in effect_rows(stage, key, measure, several)
    ]
    return replace(found, headline=(*found.headline, *rows))


def section_ranker(stages: Sequence[Finished]) -> Section:
    """Report how often rankers are right."""
    found = section("Ranker", stages, "Loss on held-out pairs")
    rows, tiles, sentences = [], [], []
    for stage in stages:
        m = stage.metrics
        if "accuracy" not in m:
            continue
        accuracy, difference = (
            Interval(**m[name]).scaled(100) for name in ("accuracy", "difference")
        )
        base = 100 * m["baseline_accuracy"]["estimate"]
        rows.append(
            Headline(
                name("Ranker is right", stage, len(stages) > 1),
                f"{base:.1f}% (the {m['baseline']} answer wins)",
                f"{accuracy:.1f}%",
                f"{difference:+.1f} points",
                m["verdict"],
                str(accuracy.n),
            )
        )
        tiles.append(Tile(f"{accuracy.estimate:.0f}%", f"{stage.name}: right on held-out pairs"))
        sentences.append(
            f"The ranker {stage.name} agrees with {accuracy.estimate:.1f}% of held-out "
            f"preferences; a rule that looks at lengths only with {base:.1f}%: {m['verdict']}."
        )
    return Section(
        title=found.title,
        summary=" ".join(sentences),
        tiles=tuple(tiles),
        headline=tuple(rows),
        figures=found.figures,
        notes=found.notes,
    )


def section(title: str, stages: Sequence[Finished], measure: str) -> Section:
    """Report losses, curves and the diagnosis of each stage."""
    return Section(
        title=title,
        summary=" ".join(sentence(stage) for stage in stages),
        headline=tuple(
            row for stage in stages for row in effect_rows(stage, "loss", measure, len(stages) > 1)
        ),
        figures=tuple(Figure(f"{stage.name}: curves of the run", plot(stage)) for stage in stages),
        notes=(
            "Grey lines are means over the batch of a step, coloured ones over held-out prompts. "
            "How to read them: look at the margin first, then whether chosen answers keep their "
            "log-probability, then at the share of open hinges.",
        ),
    )


def sentence(stage: Finished) -> str:
    """Sum up one run."""
    m = stage.metrics
    told = f"{stage.name}: {m['steps']} steps on {m['prompts']} prompts, {m['diagnosis']}"
    if "kl_to_start" not in m:
        return told + "."
    kl = Interval(**m["kl_to_start"])
    return f"{told}; it moved {kl:.3g} nats per token from its start (n = {kl.n} prompts)."


def effect_rows(stage: Finished, figure: str, measure: str, several: bool) -> list[Headline]:
    """Return a figure before and after, on prompts that nothing was chosen by; if there is one."""
    found = stage.metrics.get("effect", {}).get(figure)
    if found is None:
        return []
    before, after, change = (Interval(**found[key]) for key in ("before", "after", "difference"))
    return [
        Headline(
            name(measure, stage, several),
            f"{before.estimate:.4g}",
            f"{after.estimate:.4g}",
            f"{change:+.3g}",
            found.get("verdict", ""),
            str(change.n),
        )
    ]


def name(measure: str, stage: Finished, several: bool) -> str:
    """Name a row; several stages need theirs."""
    return f"{measure} ({stage.name})" if several else measure


def plot(stage: Finished) -> str:
    """Draw the curves from the history of a run."""
    from strop.tuning.curves import curves
    from strop.tuning.fit import HISTORY

    rows = read_rows(stage.directory / OUTPUT / HISTORY)
    kinds = [[row for row in rows if row["kind"] == kind] for kind in ("step", "evaluation")]
    return curves(*kinds)


SFT = Stage(SftOptions, run_sft, describe_sft, section_sft, Output(OUTPUT, ModelReference))
RANKER = Stage(
    RankerOptions, run_ranker, describe_ranker, section_ranker, Output(OUTPUT, RankerReference)
)
PREFERENCE = Stage(
    PreferenceOptions,
    run_preference,
    describe_preference,
    section_preference,
    Output(OUTPUT, ModelReference),
)
