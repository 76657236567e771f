"""How much one way of training is better than another, from a few runs of each on the same rows.

Two things vary: runs (their order of examples, or the examples that a method happened to choose)
and the rows that all of them are measured on. An interval over rows alone says how two models
differ; whether the method that made them differs needs both.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from strop.errors import StropError
from strop.stats.interval import Interval
from strop.stats.student import student_quantile, student_within


def run_difference(
    ours: ArrayLike, baseline: ArrayLike, weights: ArrayLike | None = None, level: float = 0.95
) -> tuple[Interval, float]:
    """Estimate how much higher the mean is over our runs than over others, and its p-value.

    `ours` and `baseline` have a row for each run and a column for each row of the test, (k, n) and
    (m, n): losses with their `weights` (n,), such as tokens, or figures without. The variance is
    that of runs by 1/k + 1/m, as much in both, and that of what separates them from row to row,
    without the part that comes from the runs; Student's t has the degrees of freedom of their sum
    (Satterthwaite 1946, "An approximate distribution of estimates of variance components"). Raises
    StropError for fewer than three runs in all, or two rows, and for values that are not finite.
    """
    a, b = (np.asarray(one, dtype=np.float64) for one in (ours, baseline))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:]:
        raise StropError(f"runs on the same rows are needed, not {a.shape} and {b.shape}")
    (k, n), m = a.shape, len(b)
    free = k + m - 2
    if min(k, m) < 1 or free < 1 or n < 2:
        raise StropError(f"too little for an interval: {k} and {m} runs on {n} rows")
    share = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (n,) or not all(np.isfinite(one).all() for one in (a, b, share)):
        raise StropError("an interval needs finite values, and a weight for each row")
    a, b, share = a / share.mean(), b / share.mean(), share / share.mean()
    parts = 1 / k + 1 / m
    difference = a.mean(axis=0) - b.mean(axis=0)
    estimate = float(difference.mean())
    apart = [one - one.mean(axis=0) for one in (a, b)]  # what a run has of its own, row by row
    means = [one.mean(axis=1) for one in apart]
    runs = sum(float((one**2).sum()) for one in means) / free
    noise = sum(
        float(((one - mean[:, None]) ** 2).sum()) for one, mean in zip(apart, means, strict=True)
    ) / (free * (n - 1))
    rows = float((difference - estimate * share).var(ddof=1))
    by_runs, by_rows = parts * runs, max(0.0, rows - parts * noise) / n
    total = by_runs + by_rows
    if total == 0.0:
        return Interval(estimate, estimate, estimate, n, level), float(estimate == 0.0)
    exact = total**2 / (by_runs**2 / free + by_rows**2 / (n - 1))
    freedom = math.floor(exact + 1e-9)  # a whole number may have come out just below itself
    half = student_quantile((1 + level) / 2, freedom) * math.sqrt(total)
    p = 1.0 - student_within(estimate / math.sqrt(total), freedom)
    return Interval(estimate, estimate - half, estimate + half, n, level), p
