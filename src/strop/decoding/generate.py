"""Generate text. Guesses of a drafter make it faster and change nothing.

With guesses g1...gk for the next tokens, one pass over the last token and them gives k + 1 rows of
logits. From the first row the next token is chosen as it would be without guesses; if it is g1, the
second row is what the model says after it, and so on. The choice is a pure function of the logits,
the tokens before, the seed and the position (see sampling.py), and the native engine's logits do
not depend on how many rows a pass has: so the tokens are those of plain generation, greedy or
sampled, whatever is guessed. (Coupled sampling: Daliri, Musco and Suresh 2024, arXiv 2408.07978.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import perf_counter
from typing import Any, Literal

import numpy as np

from strop.decoding.cache import CachedSession
from strop.decoding.planner import NOTHING, Planner
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
    passes: int  #: of the model after the prompt
    guessed: dict[str, int]  #: tokens that each drafter guessed and a pass checked
    accepted: dict[str, int]  #: of these, tokens that were right

    @property
    def prefill_speed(self) -> float:
        """Return prompt tokens read per second."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill_seconds

    @property
    def decode_speed(self) -> float | None:
        """Return tokens after the first per second; None if there are none."""
        tokens = self.generated_tokens - 1
        return tokens / self.decode_seconds if tokens > 0 else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Return tokens after the first per pass; None if there are none."""
        return (self.generated_tokens - 1) / self.passes if self.passes else None

    def to_json(self) -> dict[str, Any]:
        """Return the fields and speeds as a JSON object."""
        return {
            **vars(self),
            "prefill_tokens_per_second": self.prefill_speed,
            "decode_tokens_per_second": self.decode_speed,
            "tokens_per_pass": self.tokens_per_pass,
        }


@dataclass(frozen=True)
class Delta:
    """One step of a generation."""

    text: str  #: text to add, often empty
    token: int | None  #: the token chosen; None only when not even one fits the context
    drafter: str | None = None  #: what guessed this token, if it was guessed
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
    planner: Planner | None = None,
) -> Iterator[Delta]:
    """Continue a prompt, one `Delta` for each token; the last one says why it ended and the cost.

    An empty prompt starts from the model's beginning-of-text token. `cache` is a session to go on
    from: what agrees with the prompt is not computed again. Prompt and output together fill at
    most `model.context_length` tokens. `planner` decides what is guessed; the text is the same
    without it. Raises StropError for a prompt longer than that, or an
    empty one for a model without a beginning-of-text token.
    """
    prompt = list(prompt_tokens) or [beginning(model)]
    if len(prompt) > model.context_length:
        raise StropError(
            f"the prompt has {len(prompt)} tokens, but the context of {model.name} "
            f"holds {model.context_length}: shorten the prompt"
        )
    cache = cache or CachedSession(model.session())
    return steps(model, prompt, sampling or Sampling(), cache, planner)


def complete(
    model: Model,
    prompt_tokens: Sequence[int],
    sampling: Sampling | None = None,
    cache: CachedSession | None = None,
    planner: Planner | None = None,
) -> Completion:
    """Continue a prompt to the end. Takes and raises what `generate` does."""
    return collect(generate(model, prompt_tokens, sampling, cache, planner))


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
    model: Model,
    prompt: list[int],
    sampling: Sampling,
    cache: CachedSession,
    planner: Planner | None,
) -> Iterator[Delta]:
    """Run the loop: guess, compute, choose tokens while the guesses are right, show them."""
    start = perf_counter()
    rows, reused = cache.prefill(prompt)
    if planner:
        planner.start(prompt, sampling)
    prefill_seconds = perf_counter() - start
    decode_seconds = 0.0

    length = len(prompt)
    room = min(model.context_length - length, sampling.max_tokens)
    sequence = np.array(prompt + [0] * room, dtype=np.int64)
    output = Output(model, length, sampling)
    guessed, accepted = Counter[str](), Counter[str]()
    passes, draft = 0, NOTHING
    text, token, drafter = "", None, None
    reason: FinishReason | None = None if room else "context"
    while reason is None:
        start = perf_counter()
        if token is not None:
            # The last token that there is room for needs no guess.
            draft = planner.draft(len(prompt) + room - length - 1) if planner else NOTHING
            rows = cache.forward([token, *draft.tokens])
            passes += 1
        shown = []
        for row, guess in zip_longest(rows, draft.tokens):
            token = sample(row, sequence[:length], sampling, sampling.seed, length)
            sequence[length] = token
            length += 1
            text, reason = output.push(token)
            drafter = draft.drafter if token == guess else None
            shown.append(Delta(text, token, drafter))
            if reason or token != guess:
                break
        cache.truncate(length - 1)  # guesses that were wrong
        if draft.drafter:
            guessed[draft.drafter] += len(draft.tokens)
            accepted[draft.drafter] += sum(delta.drafter is not None for delta in shown)
        if planner and reason is None:
            planner.learn(draft, sequence[length - len(shown) : length].tolist())
        decode_seconds += perf_counter() - start
        yield from shown[:-1] if reason else shown
    cost = Statistics(
        prompt_tokens=len(prompt),
        reused_tokens=reused,
        generated_tokens=output.count,
        prefill_seconds=prefill_seconds,
        decode_seconds=decode_seconds,
        passes=passes,
        guessed=dict(guessed),
        accepted=dict(accepted),
    )
    yield Delta(text, token, drafter, reason, cost)


def beginning(model: Model) -> int:
    """Return the beginning-of-text token. Raises StropError if the model has none."""
    tokenizer = model.tokenizer
    text = tokenizer.tokens.get("bos_token")
    token = None if text is None else tokenizer.backend.token_to_id(text)
    if token is None:
        raise StropError(f"the prompt is empty and {model.name} has no beginning-of-text token")
    return int(token)
