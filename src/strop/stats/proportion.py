"""Intervals for proportions."""

from __future__ import annotations

import math
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
