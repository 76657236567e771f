"""How fast a model writes, beside another one: the two take turns, so that both meet the same load.

One repetition reads the prompt and then computes one token after another, always the most likely
one. The rate counts the tokens after the prompt. What varies independently is a repetition; the
ratio is paired, because the two models of a repetition run right after each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from strop.console import progress
from strop.errors import StropError, StropFailure
from strop.models.interface import Model
from strop.stats import Interval, bootstrap, paired_difference

LEAST_REPEATS = 5  # an interval of fewer says nothing


@dataclass(frozen=True)
class SpeedResult:
    """Tokens per second of two models; every interval counts repetitions."""

    candidate: Interval  #: tokens per second of the candidate
    source: Interval  #: tokens per second of what it is compared with
    ratio: Interval  #: candidate / source, paired by repetition
    prompt_tokens: int  #: read before the clock starts
    tokens: int  #: computed one by one in each repetition
    repeats: int
    waiting: float | None  #: share of the time that other processes took; None if not known

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def measure_speed(
    candidate: Model,
    source: Model,
    prompt: Sequence[int],
    tokens: int = 32,
    repeats: int = 8,
    seed: int = 0,
) -> SpeedResult:
    """Time both models on the same prompt, in turn, `repeats` times after one that does not count.

    Raises StropError when prompt and tokens are longer than a context, or too few for a number.
    """
    if tokens < 1 or repeats < LEAST_REPEATS or not prompt:
        raise StropError(f"speed needs a prompt, a token and {LEAST_REPEATS} repeats at least")
    room = min(candidate.context_length, source.context_length)
    if len(prompt) + tokens > room:
        raise StropError(f"{len(prompt)} + {tokens} tokens do not fit into a context of {room}")
    rates = []
    start, waited = perf_counter(), waited_seconds()
    with progress("timing", repeats + 1, "repeats") as advance:
        for _ in range(repeats + 1):
            rates.append([rate(model, prompt, tokens) for model in (candidate, source)])
            advance(1)
    wall, now = perf_counter() - start, waited_seconds()
    ours, theirs = np.array(rates[1:]).T
    times = paired_difference(ours, theirs, relative=True, seed=seed)
    return SpeedResult(
        candidate=bootstrap(ours, seed=seed),
        source=bootstrap(theirs, seed=seed),
        ratio=Interval(times.estimate + 1, times.low + 1, times.high + 1, times.n, times.level),
        prompt_tokens=len(prompt),
        tokens=tokens,
        repeats=repeats,
        waiting=None if now is None or waited is None else (now - waited) / wall,
    )


def waited_seconds() -> float | None:
    """Return how long this thread was ready to run while others ran; None if nobody counts it."""
    path = Path("/proc/thread-self/schedstat")  # proc(5): nanoseconds running, nanoseconds waiting
    return int(path.read_text(encoding="ascii").split()[1]) / 1e9 if path.exists() else None


def rate(model: Model, prompt: Sequence[int], tokens: int) -> float:
    """Return the tokens per second that a model computes one by one after a prompt."""
    session = model.session()
    token = int(session.forward(prompt, last=1)[-1].argmax())
    start = perf_counter()
    for _ in range(tokens):
        logits = session.forward([token], last=1)[-1]
        token = int(logits.argmax())
    seconds = perf_counter() - start
    if not np.isfinite(logits).all():
        raise StropFailure(f"{model.name}: its logits are not finite")
    return tokens / seconds
