"""The stages `mix` and `train`: a mixture of domains, and a model that is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strop.data import read_rows, read_text
from strop.recipes.options import (
    DomainsFile,
    MixtureFile,
    ModelReference,
    TraineeReference,
    label,
)
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

SMALLEST = TraineeReference("1M")
MIXED, MODEL = "mixed", "model"  # directories in those of the stages


@dataclass(frozen=True)
class RunOptions:
    """What training runs have in common."""

    domains: DomainsFile  #: YAML that names the domains, and where their texts are
    tokens: int = 1_000_000  #: of the run that the mixture is for
    model: TraineeReference = SMALLEST  #: size of a model from scratch, or a model to go on with
    context: int = 256  #: tokens of a window
    batch: int = 16  #: windows between two updates
    learning_rate: float | None = None  #: at its peak; 3e-3 from scratch, else 2e-4

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        self.runs()

    def runs(self) -> Any:
        """Return the settings of the runs."""
        from strop.mixing.jobs import RunConfig

        return RunConfig(self.model, self.context, self.batch, self.learning_rate)


@dataclass(frozen=True)
class MixOptions(RunOptions):
    """What a mixture is wanted for."""

    objective: str = "mean"  #: mean, worst, target or weighted
    weights: dict[str, float] = field(default_factory=dict)  #: of domains' losses, for weighted
    method: str = "auto"  #: doremi, swarm, experts, random, online (for worst) or auto
    search_tokens: int | None = None  #: that each search may read; as many as `tokens`
    seeds: int = 3  #: searches, and runs of each mixture to compare
    swarm_runs: int = 0  #: of a swarm; 0: two more than domains, at least 8
    rounds: int = 1  #: of DoReMi
    eta: float = 50.0  #: of DoReMi and online: their weights move by eta / steps
    pull: float = 0.05  #: of swarm and experts, towards the natural mixture
    repetitions: float = 4.0  #: how often any domain may be read, at most

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        super().__post_init__()
        self.search()

    def search(self) -> Any:
        """Return the settings of the search."""
        from strop.mixing.methods import SearchConfig
        from strop.mixing.optimum import Objective

        return SearchConfig(
            Objective(self.objective, self.weights),
            self.tokens if self.search_tokens is None else self.search_tokens,
            self.tokens,
            self.swarm_runs,
            self.rounds,
            self.eta,
            self.pull,
            self.repetitions,
        )


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """A model, from scratch or on."""

    mixture: MixtureFile | None = None  #: weights of the domains; else by their tokens


def run_mix(options: MixOptions, context: Context) -> Metrics:
    """Find a mixture, and compare it."""
    from strop.mixing.mix import mix
    from strop.models.machine import physical_cores

    return mix(
        Path(options.domains),
        context.directory / MIXED,
        options.method,
        options.search(),
        options.runs(),
        options.seeds,
        physical_cores(),
        context.work,
    )


def run_train(options: TrainOptions, context: Context) -> Metrics:
    """Train a model."""
    from strop.mixing.train import train_on_mixture

    return train_on_mixture(
        Path(options.domains),
        context.directory / MODEL,
        None if options.mixture is None else Path(options.mixture),
        options.tokens,
        options.runs(),
        context.seed,
        context.work,
    )


def describe_mix(options: MixOptions) -> str:
    """Say what the stage does."""
    what = f"find a mixture of {label(options.domains)}"
    return f"{what} for the {options.objective} loss"


def describe_train(options: TrainOptions) -> str:
    """Say what the stage does."""
    mixture = "natural weights" if options.mixture is None else label(options.mixture)
    return f"train {label(options.model)} on {label(options.domains)}, mixed by {mixture}"


def section_mix(stages: Sequence[Finished]) -> Section:
    """Report what was found, and what it is worth."""
    rows, tables, figures, sentences, tiles = [], [], [], [], []
    for stage in stages:
        m = stage.metrics
        method = m["method"]
        others = [name for name in m["contenders"] if name != method]
        rows += [compared(stage, other) for other in others]
        tables += [domains_table(m), losses_table(m, [method, *others])]
        figures += [
            Figure(f"{stage.name}: {path.stem}", bare(read_text(path)))
            for path in sorted((stage.directory / MIXED).glob("*.svg"))
        ]
        most = max(m["table"], key=lambda name: m["table"][name]["weight"])
        tiles.append(Tile(f"{m['table'][most]['weight']:.0%}", f"{stage.name}: of {most}"))
        sentences.append(
            f"{stage.name}: {method} read {m['searched_tokens']:,.0f} tokens in each of "
            f"{len(m['by_seed'])} searches."
        )
    return Section(
        "Mixture of domains",
        " ".join(sentences),
        notes=(
            "All final runs read equally many tokens, without those of the search. Losses are of "
            "text that neither training nor the search has seen; intervals are over seeds, each "
            "with a search and a mixture of its own, and hold for losses that are normally "
            "distributed. The mixture that is written is the mean of those of the seeds.",
        ),
        tiles=tuple(tiles),
        headline=tuple(rows),
        tables=tuple(tables),
        figures=tuple(figures),
    )


def compared(stage: Finished, other: str) -> Headline:
    """Return the row that compares a mixture with another one."""
    from strop.mixing.report import SEEDS
    from strop.stats import verdict

    m = stage.metrics
    ours, theirs = m["contenders"][m["method"]], m["contenders"][other]
    found = theirs["difference"]
    change, words, n = f"{found:+.4f}" if isinstance(found, float) else "", "cannot tell", "1"
    if not isinstance(found, float):
        interval = Interval(**found)
        words = verdict(interval, lower_is_better=True, least=SEEDS)
        change, n = f"{interval:+.4f}", str(interval.n)
    return Headline(
        f"{m['objective'].capitalize()} loss with {m['method']}, against {other} ({stage.name})",
        f"{theirs['objective']:.4f}",
        f"{ours['objective']:.4f}",
        change,
        words,
        n,
    )


def domains_table(metrics: Metrics) -> Table:
    """Return weights before and after."""
    from strop.mixing.report import domain_rows

    return Table(("Domain", "Natural", "Weight", "Read"), tuple(map(tuple, domain_rows(metrics))))


def losses_table(metrics: Metrics, names: Sequence[str]) -> Table:
    """Return the losses of all texts with each mixture."""
    from strop.mixing.report import loss_rows

    return Table(("Loss, nats per token", *names), tuple(map(tuple, loss_rows(metrics, names))))


def bare(drawing: str) -> str:
    """Return a plot without the colours of its own."""
    head, _, rest = drawing.partition("<style>")
    return head + rest.partition("</style>")[2].rstrip()


def section_train(stages: Sequence[Finished]) -> Section:
    """Report the losses of trained models."""
    rows = []
    for stage in stages:
        for name, one in stage.metrics["losses"].items():
            change = one["after"] - one["before"]
            known = Interval(**one["change"]) if one["change"] else change
            rows.append(
                Headline(
                    f"Loss of {name}, nats per token ({stage.name})",
                    f"{one['before']:.3f}",
                    f"{one['after']:.3f}",
                    f"{known:+.3f}",
                    "",
                    str(one["documents"]),
                )
            )
    return Section(
        "Training on domains",
        " ".join(
            f"{stage.name}: {stage.metrics['tokens']:,} tokens in {stage.metrics['steps']} steps."
            for stage in stages
        ),
        headline=tuple(rows),
        figures=tuple(
            Figure(f"{stage.name}: loss of each domain", plot(stage)) for stage in stages
        ),
    )


def plot(stage: Finished) -> str:
    """Draw the curves of a run."""
    from strop.mixing.train import curves

    rows = read_rows(stage.directory / MODEL / "history.jsonl")
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    return curves(evaluations, list(stage.metrics["losses"]))


MIX = Stage(
    MixOptions, run_mix, describe_mix, section_mix, Output(f"{MIXED}/mixture.json", MixtureFile)
)
TRAIN = Stage(TrainOptions, run_train, describe_train, section_train, Output(MODEL, ModelReference))
