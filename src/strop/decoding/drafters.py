"""What guesses the next tokens, so that a model can check several in one pass.

A drafter need not be right: the text is the model's, whatever is guessed (see generate.py). How
often it is right decides whether guessing pays (see planner.py).
"""

from __future__ import annotations

import operator
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from strop.decoding.sampling import Sampling
from strop.models.interface import Session


class Law(NamedTuple):
    """A distribution over tokens."""

    tokens: NDArray[np.int64]  #: ascending
    probabilities: NDArray[np.float64]


class Guess(NamedTuple):
    """A guess for one token."""

    token: int
    kind: int  #: an index into `Drafter.priors`: guesses of a kind are right about equally often
    law: Law | None = None  #: what it was drawn from, for the rejection rule; None: it is certain


class Drafter(Protocol):
    """Guesses how a text goes on.

    It works in a thread of its own, where it is waited for only so long, unless it has an attribute
    `bounded` that is true: then it does nothing that could hang more than the model itself. One
    that writes in the model's session has to be bounded.
    """

    @property
    def name(self) -> str:
        """Return what users call it."""

    @property
    def seconds(self) -> float:
        """Return the time that one guess takes."""

    @property
    def priors(self) -> Sequence[float]:
        """Return, for each kind of guess, how often one is right before any was seen."""

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text, which will be continued by this sampling, in the model's own session.

        A drafter may read the session's states, and write after its last token what it takes back.
        """

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the tokens that were chosen next, guessed or not."""

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next token, the one after it and so on, each when it is asked for."""


def check(guess: object, drafter: Drafter, rejecting: bool) -> None:
    """Raise TypeError or ValueError for what is no guess of a drafter.

    With `rejecting` it has to be one that the rejection rule can check.
    """
    if not isinstance(guess, Guess):
        raise TypeError(f"{guess!r:.80} is no guess")
    operator.index(guess.token)
    if not 0 <= operator.index(guess.kind) < len(drafter.priors):
        raise ValueError(f"a guess of kind {guess.kind}, of {len(drafter.priors)}")
    if rejecting and guess.law:
        check_law(guess.law)


def check_law(law: Law) -> None:
    """Raise ValueError unless it is a distribution over ascending tokens."""
    tokens, probabilities = law
    if tokens.shape != probabilities.shape or tokens.ndim != 1 or (np.diff(tokens) <= 0).any():
        raise ValueError("a law without a probability for each of its tokens, ascending")
    if not (probabilities >= 0).all() or not abs(probabilities.sum() - 1) < 1e-6:
        raise ValueError("a law whose probabilities do not add up to one")
