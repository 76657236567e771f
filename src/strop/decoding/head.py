"""Drafts by a small head on the model's own state."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from strop.decoding.draft_model import PRIORS, guess_from
from strop.decoding.drafters import Guess
from strop.decoding.sampling import Sampling
from strop.errors import StropError
from strop.models.draft_head import open_draft_head
from strop.models.interface import Model, Session
from strop.models.native_backend import NativeModel

TIMED = 20  # drafts of two guesses, of which the median counts


class HeadDrafter:
    """Guesses by a draft head, see `strop.models.draft_head`."""

    name = "head"
    priors = PRIORS

    def __init__(self, directory: Path, model: Model) -> None:
        """Open a head; StropError if it does not fit the model."""
        if not isinstance(model, NativeModel):
            raise StropError(f"{directory}: draft heads need a packed model on the native backend")
        self.head = open_draft_head(directory, model)
        self.row = np.full(model.vocabulary, -np.inf, np.float32)
        self.state = np.zeros(model.hidden, np.float32)
        self.seconds = self.time_of_a_guess(model)

    def time_of_a_guess(self, model: Model) -> float:
        """Return the median seconds of a guess, each after a pass of the model, as in use."""
        session, seconds = model.session(), []
        self.start([0] * TIMED, Sampling(), session)
        for _ in range(TIMED):
            session.forward([0])
            start = perf_counter()
            for _ in islice(self.propose(), 2):
                pass
            seconds.append((perf_counter() - start) / 2)
        return median(seconds)

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.tokens, self.sampling, self.session = list(prompt), sampling, session

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens, and the state from which the last of them was chosen."""
        self.tokens += tokens
        if self.session.states is not None:
            self.state = self.session.states[len(tokens) - 1]

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        text, state = list(self.tokens), self.state
        while True:
            logits, state = self.head.step(text[-1], state)
            self.row[self.head.tokens] = logits
            guess = guess_from(self.row, text, self.sampling, logits)
            yield guess
            text.append(guess.token)
