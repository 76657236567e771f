"""Drafts copied from the text itself: what followed the last time that the same tokens came."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count

from strop._native import SuffixAutomaton
from strop.decoding.drafters import Guess
from strop.decoding.sampling import Sampling
from strop.models.interface import Session

MOST_TOKENS = 65_536  #: that are remembered; then all but the present text is forgotten
BETWEEN = -1  # stands between two texts

#: How often a guess after so many agreeing tokens is right, before any was seen.
PRIORS = (
    0.0,
    0.15,
    0.3,
    0.45,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.8,
    0.85,
    0.85,
    0.9,
    0.9,
    0.9,
    0.9,
)


class Lookup:
    """Guesses that the text goes on as it did after the same tokens before.

    Before means in this text, in those that this object was given earlier, or in what the caller
    expects. The kind of a guess is the number of tokens before it that agree, guesses included.
    """

    bounded = True
    name = "lookup"
    seconds = 0.0
    priors = PRIORS

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        self.tokens: list[int] = []
        self.known = SuffixAutomaton()

    def expect(self, tokens: Sequence[int]) -> None:
        """Take a text that later ones may repeat."""
        if len(self.tokens) + len(tokens) > MOST_TOKENS:
            self.forget()
        self.extend([BETWEEN, *tokens[-MOST_TOKENS:]])

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.expect(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens."""
        self.known.extend(tokens)
        self.tokens.extend(tokens)

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        length, end = self.known.match
        tokens = self.tokens
        period = len(tokens) - end  # what is repeated up to the end goes on to be repeated
        for index in count() if length else ():
            token = tokens[end + index % period]
            if token == BETWEEN:
                return
            yield Guess(token, min(length + index, len(PRIORS) - 1))
