"""How a model can generate within a memory: in which formats, and with how long a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from strop.errors import StropError
from strop.models.memory import (
    ModelFacts,
    Peak,
    native_peak,
    native_token,
    packed_as,
    tiled,
    torch_peak,
    torch_token,
)

FORMATS = ("bfp8", "bfp6", "bfp5", "bfp4g32")  #: that are tried, the most precise first
TORCH = 0.5  #: of the speed of memory that PyTorch reaches in float32, measured with SmolLM2
COPIED = 32_000_000  #: bytes of a probe: more than caches hold


@dataclass(frozen=True)
class Option:
    """A way to generate, and what it would take."""

    backend: str  #: "native" or "torch"
    base: str | None  #: format that the weights are packed in first; None: as they are
    kv: str | None  #: format of keys and values, of the native backend
    context: int  #: tokens of prompt and answer that were asked for
    peak: Peak
    tokens: int  #: longest context that fits; 0: none does
    seconds: float  #: for each token at the end of the context, about
    fits: bool

    @property
    def name(self) -> str:
        """Return what the option is called in a table."""
        if self.backend == "torch":
            return "float32, on PyTorch"
        return f"{self.base or 'as it is'}, keys and values {self.kv}"

    @property
    def trial(self) -> tuple[str, dict[str, Any]]:
        """Return the module that tries it, and its settings."""
        settings = {"backend": self.backend, "kv": self.kv, "context": self.context}
        return "strop.models.trial", settings

    def arguments(self, model: str) -> list[str]:
        """Return the arguments of the command that generates so."""
        return ["generate", model, "PROMPT", *(["--kv", self.kv] if self.kv else [])]


def options(facts: ModelFacts, context: int, budget: int, threads: int) -> list[Option]:
    """Return the ways to generate: those that fit first, then the most precise first.

    The smaller a format the faster it is, so that the fastest would always be the least precise.
    A plain model on PyTorch comes last: bfp8 differs little from it and is several times as fast.
    Raises StropError for more tokens than the model's context.
    """
    if context > facts.architecture.context:
        raise StropError(
            f"{context} tokens are more than the context of {facts.architecture.context}"
        )
    speed = memory_speed()

    def option(base: str | None, kv: str | None) -> Option:
        packed = packed_as(facts, base) if base else facts
        if kv:
            backend, predict = "native", partial(native_peak, packed, kv=kv, threads=threads)
            read = sum(map(tiled, packed.tensors.values()))
            seconds = (read + context * native_token(facts.architecture, kv)) / speed
        else:
            backend, predict = "torch", partial(torch_peak, facts)
            read = facts.held("F32") + context * torch_token(facts.architecture)
            seconds = read / speed / TORCH
        peak, fits = predict(context), predict(context).total <= budget
        longest = longest_context(predict, facts, budget)
        return Option(backend, base, kv, context, peak, longest, seconds, fits)

    bases = (None,) if facts.packed else FORMATS
    found = [option(base, kv) for base in bases for kv in ("fp16", "bfp8")]
    found += [] if facts.packed else [option(None, None)]
    return sorted(found, key=lambda one: not one.fits)


def longest_context(peak: Callable[[int], Peak], facts: ModelFacts, budget: int) -> int:
    """Return the most tokens, up to the model's context, with which a peak fits."""
    low, high = 0, facts.architecture.context
    while low < high:
        middle = (low + high + 1) // 2
        if peak(middle).total <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def memory_speed() -> float:
    """Return the bytes that are read in a second while they are copied."""
    source = np.ones(COPIED, np.uint8)
    target = np.empty_like(source)
    seconds = []
    for _ in range(4):
        start = perf_counter()
        np.copyto(target, source)
        seconds.append(perf_counter() - start)
    return COPIED / min(seconds[1:])
