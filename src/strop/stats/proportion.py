"""Intervals for proportions, and for the difference of two on the same trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from strop.errors import StropError
from strop.stats.interval import Interval


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Estimate the probability behind `successes` out of `n` independent trials.

    The score interval of Wilson (1927), without continuity correction: it stays within [0, 1] and
    has a width even when all trials succeed. A trial may count as a
    half. Raises StropError for no trials or impossible counts.
    """
    if n < 1 or not 0 <= successes <= n:
        raise StropError(f"a proportion needs 0 <= successes <= n and n >= 1: {successes} of {n}")
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the two ends centre and half are equal in theory; rounding must not show.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(p, low, high, n, level)


def paired_proportions(first: int, second: int, n: int, level: float = 0.95) -> Interval:
    """Estimate the difference of two proportions that were seen on the same n trials.

    `first` counts trials in which only the first succeeded, `second` those in which only the second
    did. The score interval of Tango (1998), Statistics in Medicine 17, 891 to 908: it stays within
    [-1, 1] and has a width even when the two never differ. Raises StropError for no trials or
    impossible counts.
    """
    if n < 1 or min(first, second) < 0 or first + second > n:
        raise StropError(f"impossible counts: {first} and {second} of {n} trials")
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)

    def score(difference: float) -> float:
        """Return by how many standard errors the data are off, were this the true difference."""
        # The likeliest share of `second` trials given the difference, Tango's equation for q21.
        b = (2 * n - first + second) * difference - first - second
        c = -second * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        off = first - second - n * difference
        return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off)

    estimate = (first - second) / n
    low = -1.0 if second == n else crossing(score, -1.0, estimate, z)
    high = 1.0 if first == n else crossing(score, estimate, 1.0, -z)
    return Interval(estimate, low, high, n, level)


def crossing(falling: Callable[[float], float], low: float, high: float, value: float) -> float:
    """Return where a falling function has a value, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > value:
            low = middle
        else:
            high = middle
    return (low + high) / 2
