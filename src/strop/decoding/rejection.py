"""The classical rule for guesses: accept by chance, and replace what is refused.

A guess x that was drawn from q is accepted with probability min(1, p(x) / q(x)), where p is what
the model says; else the token is drawn from max(p - q, 0), scaled to a sum of one. So tokens are
distributed as p, but which ones come depends on the guesses, unlike by the coupled rule, which
accepts a little less often. Sources: Leviathan, Kalman and Matias 2023, algorithm 1 (arXiv
2211.17192); Chen et al. 2023 (arXiv 2302.01318). Both laws are those after temperature and filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.decoding.drafters import Guess, Law
from strop.decoding.noise import ACCEPT, DRAFT, REPLACE, TOKEN_CHOICE, gumbel, uniform
from strop.decoding.sampling import Sampling, candidates


def law_of(
    logits: NDArray[np.floating[Any]],
    history: Sequence[int] | NDArray[np.integer[Any]],
    sampling: Sampling,
    position: int,
) -> Law:
    """Return the distribution from which the next token is drawn."""
    return softmax(*candidates(logits, history, sampling, position))


def softmax(tokens: NDArray[np.int64], scores: NDArray[np.float64]) -> Law:
    """Return the distribution that the scores of some tokens give."""
    probabilities = np.exp(scores)
    return Law(tokens, probabilities / probabilities.sum())


def draw(law: Law, seed: int, position: int, use: int) -> int:
    """Draw a token, with noise of its own for each use."""
    with np.errstate(divide="ignore"):
        scores = np.log(law.probabilities)
    return int(law.tokens[np.argmax(scores + gumbel(seed, position, law.tokens, use))])


def draw_guess(law: Law, seed: int, position: int) -> int:
    """Draw a guess; what decides about it later is independent of it."""
    return draw(law, seed, position, DRAFT)


def accept_or_replace(
    logits: NDArray[np.floating[Any]],
    history: Sequence[int] | NDArray[np.integer[Any]],
    sampling: Sampling,
    position: int,
    guess: Guess | None,
) -> int:
    """Choose a token: the guess if it is accepted, else another. A guess without law is certain."""
    law = law_of(logits, history, sampling, position)
    if guess is None:
        return draw(law, sampling.seed, position, TOKEN_CHOICE)
    drafted = guess.law or Law(np.array([guess.token]), np.ones(1))
    chance = uniform(sampling.seed, position, ACCEPT)
    if chance * probability(drafted, guess.token) < probability(law, guess.token):
        return guess.token
    return draw(residual(law, drafted), sampling.seed, position, REPLACE)


def probability(law: Law, token: int) -> float:
    """Return the probability of a token."""
    return float(law.probabilities[law.tokens == token].sum())


def residual(law: Law, drafted: Law) -> Law:
    """Return max(p - q, 0), scaled to a sum of one; p where nothing is left, as when q is p."""
    rest = law.probabilities.copy()
    _, mine, theirs = np.intersect1d(
        law.tokens, drafted.tokens, assume_unique=True, return_indices=True
    )
    rest[mine] = np.maximum(rest[mine] - drafted.probabilities[theirs], 0)
    total = rest.sum()
    return Law(law.tokens, rest / total) if total > 0 else law
