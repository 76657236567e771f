"""Tests whether two things that were tried on the same items differ, and many tests together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from strop.errors import StropError

CHUNK = 1 << 22  # most signs that are drawn at once


def spelled_p(p: float) -> str:
    """Say a p-value: none is zero."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def sign_test(wins: int, losses: int) -> float:
    """Return how likely it is that wins and losses are so unequal by chance; ties do not count.

    Two-sided, exact: each of wins + losses is a toss of a coin. Without any it is 1. Raises
    StropError for counts below zero.
    """
    if min(wins, losses) < 0:
        raise StropError(f"counts must not be negative: {wins} and {losses}")
    n = wins + losses
    if wins == losses:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    tail = math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1))
        for k in range(min(wins, losses) + 1)
    )
    return min(1.0, 2 * tail)


def mcnemar(ours: ArrayLike, baseline: ArrayLike) -> float:
    """Return the p-value of McNemar's exact test: are two models right equally often?

    Takes for each item whether each was right, (n,). Only items on which they differ count. Raises
    StropError when the two differ in shape.
    """
    a, b = np.asarray(ours, dtype=bool), np.asarray(baseline, dtype=bool)
    if a.shape != b.shape:
        raise StropError(f"paired samples differ in shape: {a.shape} and {b.shape}")
    return sign_test(int((a & ~b).sum()), int((b & ~a).sum()))


def permutation_test(
    ours: ArrayLike, baseline: ArrayLike, resamples: int = 10_000, seed: int = 0
) -> float:
    """Return how likely a difference of means as large is if it matters not which is which.

    Two-sided, for paired samples (n,): the sign of each difference is turned at random, all 2^n
    ways if they are not more than `resamples`. (Fisher 1935, The Design of Experiments, section
    21.) Raises StropError for samples that differ in shape, are empty or not finite.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise StropError(f"paired samples of shape {a.shape} and {b.shape}")
    differences = a - b
    if not np.isfinite(differences).all():
        raise StropError("a test needs finite samples: found NaN or infinity")
    n = len(differences)
    seen = abs(differences.sum()) * (1 - 1e-12)  # sums in another order are equal to rounding
    if 2**n <= resamples:
        every = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float((abs(every @ differences) >= seen).mean())
    rng = np.random.default_rng(seed)
    batch = max(1, CHUNK // n)
    as_large = 0
    for start in range(0, resamples, batch):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(batch, resamples - start), n), dtype=np.int8)
        as_large += int((abs(signs @ differences) >= seen).sum())
    return (1 + as_large) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold together: below 0.05 for the true null ones in 5% of studies.

    (Holm 1979, Scandinavian Journal of Statistics 6, 65 to 70.) In the order given.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(order)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
