"""What guesses the next tokens, so that a model can check several in one pass.

A drafter sees token ids only. It need not be right: the text is the model's, whatever is guessed
(see generate.py). How often it is right decides whether guessing pays (see planner.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from strop.decoding.sampling import Sampling


class Guess(NamedTuple):
    """A guess for one token."""

    token: int
    kind: int  #: an index into `Drafter.priors`: guesses of a kind are right about equally often


class Drafter(Protocol):
    """Guesses how a text goes on."""

    @property
    def name(self) -> str:
        """Return what users call it."""

    @property
    def seconds(self) -> float:
        """Return the time that one guess takes."""

    @property
    def priors(self) -> Sequence[float]:
        """Return, for each kind of guess, how often one is right before any was seen."""

    def start(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Begin a text, which will be continued by this sampling."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the tokens that were chosen next, guessed or not."""

    def propose(self) -> Iterator[Guess]:
        """Guess the next token, the one after it and so on, each when it is asked for."""
