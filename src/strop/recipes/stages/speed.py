"""The stage `speed`: how fast a model writes beside another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strop.errors import StropError
from strop.recipes.options import BackendName, ModelReference, label
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

BUSY = 0.05  # share of the time lost to other processes from which on the report says so


@dataclass(frozen=True)
class SpeedOptions:
    """What to time, and how often."""

    candidate: ModelReference  #: the changed model
    against: ModelReference  #: the model it is compared with
    prompt: str  #: read by both before the clock starts
    tokens: int = 32  #: computed one by one in each repetition
    repeats: int = 8  #: timings of each model, in turn
    backend: BackendName | None = None  #: of the candidate; else native if packed, torch if not

    def __post_init__(self) -> None:
        from strop.evaluation.speed import LEAST_REPEATS

        if not self.prompt.strip():
            raise StropError("prompt: must not be empty")
        if self.tokens < 1:
            raise StropError(f"tokens: must be at least 1, not {self.tokens}")
        if self.repeats < LEAST_REPEATS:
            raise StropError(f"repeats: must be at least {LEAST_REPEATS}, not {self.repeats}")


def run(options: SpeedOptions, context: Context) -> Metrics:
    """Time both models in turn; tokens per second, with intervals, and what computed them."""
    from strop.decoding import prompt_tokens
    from strop.evaluation import measure_speed
    from strop.models import load

    candidate, source = load(options.candidate, options.backend), load(options.against)
    prompt = prompt_tokens(candidate.tokenizer, options.prompt)
    if prompt != prompt_tokens(source.tokenizer, options.prompt):
        raise StropError("the two models have different tokenizers: their speeds do not compare")
    result = measure_speed(candidate, source, prompt, options.tokens, options.repeats, context.seed)
    return {**result.to_json(), "backends": [candidate.backend, source.backend]}


def describe(options: SpeedOptions) -> str:
    """Say what the stage does."""
    models = f"time {label(options.candidate)} against {label(options.against)}"
    return f"{models}, {options.repeats} times {options.tokens} tokens"


def section(stages: Sequence[Finished]) -> Section:
    """Report how fast each candidate writes."""
    return Section(
        title="Speed",
        summary=" ".join(map(sentence, stages)),
        tiles=tuple(
            Tile(f"{value(stage, 'ratio').estimate:.1f}×", f"{name(stage, 0)}: speed of writing")
            for stage in stages
        ),
        headline=tuple(row(stage, len(stages) > 1) for stage in stages),
        figures=(
            Figure(
                "Speed of writing, higher is better",
                whiskers([one for stage in stages for one in levels(stage)], "tokens per second"),
            ),
        ),
        notes=(
            "Both models read the same prompt and then compute one token after another; only that "
            "is timed. They take turns, so the interval of the ratio, which is paired, is the one "
            "to read. It covers how timings vary from one repetition to the next on this machine "
            "while this ran, and nothing else: other prompts and machines have other speeds.",
        ),
        caveats=(
            "Speeds vary from run to run. The baseline is the named model on transformers in "
            "float32, as it runs without further care; other engines and smaller number formats "
            "are faster than that.",
        )
        if any(stage.metrics["backends"][1] == "torch" for stage in stages)
        else (),
    )


def busy(stage: Finished) -> str:
    """Say that other processes were in the way, if they were; PyTorch suffers from it most."""
    waiting = stage.metrics["waiting"]
    if waiting is None or waiting < BUSY:
        return ""
    return (
        f" Other processes took {waiting:.0%} of its processor time: on an idle machine both are "
        "faster, and the ratio is another."
    )


def sentence(stage: Finished) -> str:
    """Sum up one comparison."""
    m = stage.metrics
    return (
        f"{name(stage, 0)} writes {value(stage, 'candidate'):.0f} tokens per second, "
        f"{value(stage, 'ratio'):.1f} times as many as {name(stage, 1)} "
        f"({m['repeats']} timings of {m['tokens']} tokens, one sequence at a time).{busy(stage)}"
    )


def name(stage: Finished, which: int) -> str:
    """Name the candidate (0) or its baseline (1), with what computes it."""
    reference = (stage.options.candidate, stage.options.against)[which]
    return f"{label(reference)} ({stage.metrics['backends'][which]})"


def row(stage: Finished, several: bool) -> Headline:
    """Return the row of the table at the top; `several` stages need their names."""
    ratio = value(stage, "ratio")
    machine = ", busy machine" if busy(stage) else ""
    faster = "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "cannot tell"
    return Headline(
        "Tokens per second" + (f" ({label(stage.options.candidate)})" if several else ""),
        f"{value(stage, 'source'):.1f}",
        f"{value(stage, 'candidate'):.1f}",
        f"{ratio:.2f} times",
        f"{faster}; {' against '.join(stage.metrics['backends'])}, one sequence{machine}",
        str(stage.metrics["repeats"]),
    )


def levels(stage: Finished) -> tuple[Whisker, Whisker]:
    """Return the speeds of baseline and candidate as rows of a plot."""
    before, after = value(stage, "source"), value(stage, "candidate")
    return whisker(name(stage, 1), before, after=False), whisker(name(stage, 0), after)


def whisker(label: str, interval: Interval, after: bool = True) -> Whisker:
    """Return an interval as a row of a plot."""
    return Whisker(label, interval.estimate, interval.low, interval.high, f"{interval:.1f}", after)


def value(stage: Finished, key: str) -> Interval:
    """Return one of the intervals in the metrics."""
    return Interval(**stage.metrics[key])


SPEED = Stage(SpeedOptions, run, describe, section)
