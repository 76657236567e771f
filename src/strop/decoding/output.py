"""What becomes of chosen tokens: text, the reason to stop, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from strop.decoding.sampling import Sampling
from strop.decoding.text import Detokenizer, StopStrings
from strop.models.interface import Model, States

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
    logprob: float | None = None  #: with `Sampling.logprobs`: the model's log-probability of it
    state: States | None = None  #: from which it was chosen, (1, hidden), where that was asked for


@dataclass(frozen=True)
class Completion:
    """A whole generation."""

    text: str  #: what was written, without the stop string
    tokens: tuple[int, ...]  #: every token chosen, those of the end or stop string included
    finish_reason: FinishReason
    statistics: Statistics
    logprobs: tuple[float, ...] | None = None  #: of every token, with `Sampling.logprobs`
    states: States | None = None  #: from which each was chosen, (tokens, hidden), if asked for
    #: log-probabilities, as the first token, of the options that were asked for
    options: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "finish_reason": self.finish_reason,
            "statistics": self.statistics.to_json(),
        } | ({} if self.logprobs is None else {"logprobs": list(self.logprobs)})


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


def collect(deltas: Iterable[Delta]) -> Completion:
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
        logprobs=logprobs_of(every),
        states=states_of(every),
    )


def states_of(deltas: Sequence[Delta]) -> States | None:
    """Return the states of all tokens, None where they were not asked for."""
    found = [delta.state for delta in deltas if delta.state is not None]
    return np.concatenate(found) if found else None


def logprobs_of(deltas: Sequence[Delta]) -> tuple[float, ...] | None:
    """Return the log-probabilities of all tokens, None where they were not asked for."""
    found = tuple(delta.logprob for delta in deltas if delta.logprob is not None)
    return found or None
