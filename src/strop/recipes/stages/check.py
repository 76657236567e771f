"""The stage `check`: what a change to a model did to its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strop.data import read_text
from strop.recipes.options import BackendName, ModelReference, TextFile, label
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
from strop.svg import Whisker, whiskers


@dataclass(frozen=True)
class CheckOptions:
    """What to compare, and on which text."""

    candidate: ModelReference  #: the changed model
    against: ModelReference  #: the model it is compared with
    text: TextFile | None = None  #: a text file; else the documentation of Python's own library
    tokens: int = 16384  #: most tokens of the text
    chunk: int = 512  #: tokens of one independent piece
    backend: BackendName | None = None  #: of the candidate; else native if packed, torch if not


def run(options: CheckOptions, context: Context) -> Metrics:
    """Compare two models on a text; the result's intervals, without the names of the models."""
    from strop.evaluation import check, default_text
    from strop.models import load

    text = default_text() if options.text is None else read_text(Path(options.text))
    result = check(
        load(options.candidate, options.backend),
        load(options.against),
        text,
        tokens=options.tokens,
        chunk=options.chunk,
        seed=context.seed,
    )
    return {key: one for key, one in result.to_json().items() if key not in ("candidate", "source")}


def describe(options: CheckOptions) -> str:
    """Say what the stage does."""
    models = f"check {label(options.candidate)} against {label(options.against)}"
    return f"{models} on {options.tokens:,} tokens of {label(options.text or 'default text')}"


def section(stages: Sequence[Finished]) -> Section:
    """Report what each candidate lost or gained."""
    changes = Figure(
        "Change of perplexity, paired by chunk; right of the line is worse",
        whiskers([change(stage) for stage in stages], "percent", reference=0.0),
    )
    return Section(
        title="Quality",
        summary=" ".join(map(sentence, stages)),
        tiles=tuple(tile for stage in stages for tile in tiles(stage)),
        headline=tuple(row for stage in stages for row in headline(stage, len(stages) > 1)),
        figures=(
            Figure(
                "Perplexity, lower is better",
                whiskers([row for stage in stages for row in levels(stage)], "perplexity"),
            ),
            changes,
        ),
        notes=(
            "Dots are estimates, lines their 95% intervals: a bootstrap over pieces of text, which "
            "vary independently. The two models read the same pieces, so the interval of the "
            "change is much narrower than those of the two perplexities; read that one.",
        ),
        caveats=tuple(
            "Quality was measured on the documentation strings of Python's own standard library, "
            "which differ a little between versions of Python. They say what changed, not how good "
            "the model is at a task, and are not comparable with figures on other texts."
            for stage in stages[:1]
            if any(one.options.text is None for one in stages)
        ),
    )


def sentence(stage: Finished) -> str:
    """Sum up one check."""
    m, options = stage.metrics, stage.options
    return (
        f"On {m['tokens']:,} tokens ({m['chunks']} pieces of text) perplexity went from "
        f"{value(stage, 'source_perplexity').estimate:.2f} ({label(options.against)}) to "
        f"{value(stage, 'perplexity').estimate:.2f} ({label(options.candidate)}), a change of "
        f"{value(stage, 'difference'):+.2f}%: {reading(stage)}. Both put the same token first at "
        f"{value(stage, 'agreement').scaled(100):.1f}% of positions."
    )


def reading(stage: Finished) -> str:
    """Say in plain words what the interval of the change shows."""
    difference = value(stage, "difference")
    if not difference.excludes(0.0):
        return "cannot tell whether anything changed"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    return f"{stage.metrics['verdict']}, by {low:.1f} to {high:.1f}%"


def tiles(stage: Finished) -> tuple[Tile, Tile]:
    """Return the change of perplexity and the agreement."""
    name = label(stage.options.candidate)
    agreement = value(stage, "agreement").scaled(100).estimate
    return (
        Tile(f"{value(stage, 'difference').estimate:+.1f}%", f"{name}: perplexity"),
        Tile(f"{agreement:.1f}%", f"{name}: same first choice as {label(stage.options.against)}"),
    )


def headline(stage: Finished, several: bool) -> tuple[Headline, ...]:
    """Return perplexity, divergence and agreement; `several` stages need their names."""
    tail = f" ({label(stage.options.candidate)})" if several else ""
    n = str(stage.metrics["chunks"])
    agreement = value(stage, "agreement").scaled(100)
    return (
        Headline(
            "Perplexity" + tail,
            f"{value(stage, 'source_perplexity'):.2f}",
            f"{value(stage, 'perplexity'):.2f}",
            f"{value(stage, 'difference'):+.2f}%",
            reading(stage),
            n,
        ),
        Headline(
            "KL divergence" + tail,
            "",
            f"{value(stage, 'kl'):.3g}",
            "",
            "nats per token, 0 if equal",
            n,
        ),
        Headline(
            "Top-1 agreement" + tail,
            "",
            f"{agreement:.1f}%",
            "",
            f"{100 - agreement.estimate:.0f} of 100 first choices differ",
            n,
        ),
    )


def levels(stage: Finished) -> tuple[Whisker, Whisker]:
    """Return the perplexities of source and candidate as rows of a plot."""
    before, after = value(stage, "source_perplexity"), value(stage, "perplexity")
    names = label(stage.options.against), label(stage.options.candidate)
    return whisker(names[0], before, ".2f", after=False), whisker(names[1], after, ".2f")


def change(stage: Finished) -> Whisker:
    """Return the paired change as a row of a plot."""
    return whisker(label(stage.options.candidate), value(stage, "difference"), "+.2f")


def whisker(name: str, interval: Interval, spec: str, after: bool = True) -> Whisker:
    """Return an interval as a row of a plot."""
    return Whisker(
        name, interval.estimate, interval.low, interval.high, f"{interval:{spec}}", after
    )


def value(stage: Finished, key: str) -> Interval:
    """Return one of the intervals in the metrics."""
    return Interval(**stage.metrics[key])


CHECK = Stage(CheckOptions, run, describe, section)
