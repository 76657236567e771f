"""Generate text token by token: the plain loop that every faster one must reproduce."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np

from strop.decoding.cache import CachedSession
from strop.decoding.sampling import Sampling, sample
from strop.decoding.text import Detokenizer, StopStrings
from strop.errors import StropError
from strop.models.interface import Model

#: Why generation ended: at an end token, before a stop string, after max_tokens, or because the
#: model's context is full.
FinishReason = Literal["end", "stop", "length", "context"]


@dataclass(frozen=True)
class Statistics:
    """What one generation cost. Time that the caller spends between tokens is not counted."""

    prompt_tokens: int  #: tokens in the prompt
    reused_tokens: int  #: of these, tokens that were in the cache already
    generated_tokens: int  #: tokens chosen, an end token included
    prefill_seconds: float  #: reading the prompt
    decode_seconds: float  #: choosing tokens and computing the logits after all but the last

    @property
    def prefill_speed(self) -> float:
        """Return prompt tokens read per second."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill_seconds

    @property
    def decode_speed(self) -> float | None:
        """Return forward passes after the prompt per second; None if one token needed none."""
        passes = self.generated_tokens - 1
        return passes / self.decode_seconds if passes > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the fields and speeds as a JSON object."""
        return {
            **vars(self),
            "prefill_tokens_per_second": self.prefill_speed,
            "decode_tokens_per_second": self.decode_speed,
        }


@dataclass(frozen=True)
class Delta:
    """One step of a generation."""

    text: str  #: text to add, often empty
    token: int | None  #: the token chosen; None only when not even one fits the context
    finish_reason: FinishReason | None = None  #: set on the last step
    statistics: Statistics | None = None  #: set on the last step


@dataclass(frozen=True)
class Completion:
    """A whole generation."""

    text: str  #: what was written, without the stop string
    tokens: tuple[int, ...]  #: every token chosen, those of the end or stop string included
    finish_reason: FinishReason
    statistics: Statistics

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "finish_reason": self.finish_reason,
            "statistics": self.statistics.to_json(),
        }


class Output:
    """What becomes of the chosen tokens: the text to show and the reason to stop."""

    def __init__(self, model: Model, prompt_tokens: int, sampling: Sampling) -> None:
        self.end_ids = model.tokenizer.end_ids
        self.detokenizer = Detokenizer(model.tokenizer.decode)
        self.stops = StopStrings(sampling.stop)
        self.max_tokens = sampling.max_tokens
        self.room = model.context_length - prompt_tokens
        self.count = 0

    def push(self, token: int) -> tuple[str, FinishReason | None]:
        """Take one chosen token; return the text that may be shown and why to stop, if so."""
        self.count += 1
        end = token in self.end_ids
        text = "" if end else self.stops.push(self.detokenizer.push(token))
        reason: FinishReason | None = None
        if self.stops.found is None:
            if end:
                reason = "end"
            elif self.count >= self.max_tokens:
                reason = "length"
            elif self.count >= self.room:
                reason = "context"
            if reason is not None:
                text += self.stops.push(self.detokenizer.flush())
        if self.stops.found is not None:
            return text, "stop"
        return (text + self.stops.flush() if reason else text), reason


def generate(
    model: Model,
    prompt_tokens: Sequence[int],
    sampling: Sampling | None = None,
    cache: CachedSession | None = None,
) -> Iterator[Delta]:
    """Continue a prompt, one `Delta` for each token; the last one says why it ended and the cost.

    An empty prompt starts from the model's beginning-of-text token. `cache` is a session to go on
    from: what agrees with the prompt is not computed again. Prompt and output together fill at
    most `model.context_length` tokens. Raises StropError for a prompt longer than that, or an
    empty one for a model without a beginning-of-text token.
    """
    prompt = list(prompt_tokens) or [beginning(model)]
    if len(prompt) > model.context_length:
        raise StropError(
            f"the prompt has {len(prompt)} tokens, but the context of {model.name} "
            f"holds {model.context_length}: shorten the prompt"
        )
    return steps(model, prompt, sampling or Sampling(), cache or CachedSession(model.session()))


def complete(
    model: Model,
    prompt_tokens: Sequence[int],
    sampling: Sampling | None = None,
    cache: CachedSession | None = None,
) -> Completion:
    """Continue a prompt to the end. Takes and raises what `generate` does."""
    return collect(generate(model, prompt_tokens, sampling, cache))


def collect(deltas: Iterator[Delta]) -> Completion:
    """Join all steps of one generation."""
    every = list(deltas)
    last = every[-1]
    if last.finish_reason is None or last.statistics is None:
        raise ValueError("this generation was broken off before its last step")
    return Completion(
        text="".join(delta.text for delta in every),
        tokens=tuple(delta.token for delta in every if delta.token is not None),
        finish_reason=last.finish_reason,
        statistics=last.statistics,
    )


def steps(
    model: Model, prompt: list[int], sampling: Sampling, cache: CachedSession
) -> Iterator[Delta]:
    """Run the loop: choose a token from the last logits, show it, compute the next logits."""
    start = perf_counter()
    logits, reused = cache.prefill(prompt)
    prefill_seconds = perf_counter() - start
    decode_seconds = 0.0

    length = len(prompt)
    room = min(model.context_length - length, sampling.max_tokens)
    sequence = np.array(prompt + [0] * room, dtype=np.int64)
    output = Output(model, length, sampling)
    text, token = "", None
    reason: FinishReason | None = None if room else "context"
    while reason is None:
        start = perf_counter()
        if token is not None:
            logits = cache.forward([token])[-1]
        token = sample(logits, sequence[:length], sampling, sampling.seed, length)
        sequence[length] = token
        length += 1
        text, reason = output.push(token)
        decode_seconds += perf_counter() - start
        if reason is None:
            yield Delta(text, token)
    cost = Statistics(len(prompt), reused, output.count, prefill_seconds, decode_seconds)
    yield Delta(text, token, reason, cost)


def beginning(model: Model) -> int:
    """Return the beginning-of-text token. Raises StropError if the model has none."""
    tokenizer = model.tokenizer
    text = tokenizer.tokens.get("bos_token")
    token = None if text is None else tokenizer.backend.token_to_id(text)
    if token is None:
        raise StropError(f"the prompt is empty and {model.name} has no beginning-of-text token")
    return int(token)
