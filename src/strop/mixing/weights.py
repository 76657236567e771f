"""Domain weights: the share of each domain in the tokens of a training run.

Weights are arrays (domains,) that are not negative and add up to one; shares of documents would be
something else. A domain of N tokens in a run of R is read w R / N times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strop.errors import StropError

Weights = NDArray[np.float64]


def uniform(sizes: ArrayLike) -> Weights:
    """Return equal weights for domains of these sizes, in tokens."""
    return tempered(sizes, 0.0)


def natural(sizes: ArrayLike) -> Weights:
    """Return weights in proportion to the domains' tokens."""
    return tempered(sizes, 1.0)


def tempered(sizes: ArrayLike, exponent: float) -> Weights:
    """Return weights in proportion to a power of the domains' tokens: 0 is uniform, 1 natural.

    Raises StropError for a domain without tokens.
    """
    tokens = np.asarray(sizes, dtype=np.float64)
    if not tokens.size or not (tokens > 0).all():
        raise StropError("every domain needs some tokens")
    logs = exponent * np.log(tokens)
    powers = np.exp(logs - logs.max())
    found: Weights = powers / powers.sum()
    return found


def repetitions(weights: Weights, sizes: ArrayLike, budget: float) -> NDArray[np.float64]:
    """Return how often each domain is read in a run of `budget` tokens."""
    found: NDArray[np.float64] = weights * budget / np.asarray(sizes, dtype=np.float64)
    return found


def limits(sizes: ArrayLike, budget: float, most: float) -> Weights:
    """Return the largest weights with which no domain is read more than `most` times.

    Raises StropError if all domains together do not have enough tokens.
    """
    found: Weights = np.minimum(most * np.asarray(sizes, dtype=np.float64) / budget, 1)
    if found.sum() < 1 - 1e-9:
        raise StropError(
            f"{budget:,.0f} tokens are more than {most:g} times what all domains have together: "
            "train on fewer, or allow more repetitions"
        )
    return found


def capped(weights: Weights, most: Weights) -> Weights:
    """Return weights of which none is larger than `most`, whose sum is at least one.

    What is taken from a domain goes to those with room, in proportion to their weights.
    """
    found, full = weights.copy(), np.zeros(len(weights), dtype=bool)
    while (over := (found > most) & ~full).any():
        full |= over
        left = 1 - most[full].sum()
        rest = np.where(full, 0, weights)
        if not rest.any():  # domains that were not wanted at all: what they can hold
            rest = np.where(full, 0, most)
        total = rest.sum()
        found = np.where(full, most, rest / total * left if total else 0)
    return found


def entropy(weights: Weights) -> float:
    """Return the entropy in nats: 0 for one domain alone, log(domains) for uniform weights."""
    some = weights[weights > 0]
    return float(-(some * np.log(some)).sum())
