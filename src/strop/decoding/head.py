"""Drafts by a small head on the model's own state."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from strop.decoding.costs import SHORT, known_costs
from strop.decoding.draft_model import PRIORS, guess_from
from strop.decoding.drafters import Guess
from strop.decoding.sampling import Sampling
from strop.errors import StropError, StropFailure
from strop.models.draft_head import open_draft_head
from strop.models.interface import Model, Session
from strop.models.native_backend import NativeModel

TIMED = 20  # passes, and drafts of two guesses after each


class HeadDrafter:
    """Guesses by a draft head, see `strop.models.draft_head`."""

    bounded = True
    name = "head"
    priors = PRIORS

    def __init__(self, directory: Path, model: Model) -> None:
        """Open a head; StropError if it does not fit the model."""
        if not isinstance(model, NativeModel):
            raise StropError(f"{directory}: draft heads need a packed model on the native backend")
        self.head = open_draft_head(directory, model)
        self.places = np.full(model.vocabulary, -1)  # of tokens among those that it can guess
        self.places[self.head.tokens] = np.arange(len(self.head.tokens))
        self.state = np.zeros(model.hidden, np.float32)
        try:
            self.seconds = self.share_of_a_pass(model) * known_costs(model).seconds[0]
        except (StropFailure, RuntimeError) as error:
            raise StropError(
                f"{directory}: does not compute numbers ({error}): make it again with  strop draft"
            ) from error

    def share_of_a_pass(self, model: Model) -> float:
        """Return the time of a guess, in times of a pass of the model: both measured in turns.

        So it holds on a machine that is busier now than when passes were measured.
        """
        session, passes, guesses = model.session(), [], []
        before = [0] * max(1, min(SHORT, model.context_length - 1))
        self.start(before, Sampling(), session)
        session.forward(before, last=1)
        for _ in range(TIMED):
            start = perf_counter()
            session.forward([0])
            passes.append(perf_counter() - start)
            self.extend([0])
            start = perf_counter()
            for _ in islice(self.propose(), 2):
                pass
            guesses.append((perf_counter() - start) / 2)
            session.truncate(len(before))
        return median(guesses) / median(passes)

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        bias = [
            (int(self.places[token]), value)
            for token, value in sampling.logit_bias
            if token < len(self.places) and self.places[token] >= 0
        ]
        self.sampling, self.session = replace(sampling, logit_bias=tuple(bias)), session
        self.length, self.token = len(prompt), prompt[-1]
        self.seen = self.known(prompt)

    def known(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Return the places of those tokens that it can guess."""
        places = self.places[np.asarray(tokens, np.int64)]
        return np.asarray(places[places >= 0])

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens, and the state from which the last of them was chosen."""
        self.length, self.token = self.length + len(tokens), tokens[-1]
        self.seen = np.concatenate([self.seen, self.known(tokens)])
        if self.session.states is not None:
            self.state = self.session.states[len(tokens) - 1]

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        token, state, seen = self.token, self.state, self.seen
        for position in count(self.length):
            logits, state = self.head.step(token, state)
            guess = guess_from(logits, seen, self.sampling, position, self.head.tokens)
            yield guess
            token = guess.token
            seen = np.append(seen, self.places[token])
