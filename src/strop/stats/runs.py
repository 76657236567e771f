"""How much one way of training is better than another, from a few runs of each on the same rows.

Two things vary: runs (their order of examples, or the examples that a method happened to choose)
and the rows that all of them are measured on. An interval over rows alone says how two models
differ; whether the method that made them differs needs both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from strop.errors import StropError
from strop.stats.interval import Interval
from strop.stats.student import student_quantile, student_within


def run_difference(
    ours: ArrayLike,
    baseline: ArrayLike,
    weights: ArrayLike | None = None,
    others: Sequence[ArrayLike] = (),
    level: float = 0.95,
) -> tuple[Interval, float]:
    """Estimate how much higher the mean is over our runs than over others, and its p-value.

    `ours` and `baseline` have a row for each run and a column for each row of the test, (k, n) and
    (m, n): losses with their `weights` (n,), such as tokens, or figures without. The variance is
    that of runs by 1/k + 1/m, and that of what separates them from row to row, without the part
    that comes from the runs; Student's t has the degrees of freedom of their sum (Satterthwaite
    1946, "An approximate distribution of estimates of variance components"). Runs are taken to vary
    as much in both, and in `others`, runs of further methods on the same rows: two or three of each
    method say little alone. Raises StropError if no method has two runs, for less than two rows,
    and for values that are not finite.
    """
    groups = [np.asarray(one, dtype=np.float64) for one in (ours, baseline, *others)]
    if any(one.ndim != 2 or one.shape[1:] != groups[0].shape[1:] for one in groups):
        raise StropError(f"runs on the same rows are needed, not {[one.shape for one in groups]}")
    (k, n), m = groups[0].shape, len(groups[1])
    free = sum(len(one) - 1 for one in groups)
    if min(map(len, groups)) < 1 or free < 1 or n < 2:
        raise StropError(f"too little for an interval: {k} and {m} runs on {n} rows")
    share = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (n,) or not all(np.isfinite(one).all() for one in (share, *groups)):
        raise StropError("an interval needs finite values, and a weight for each row")
    groups = [one / share.mean() for one in groups]
    share = share / share.mean()
    apart = [one - one.mean(axis=0) for one in groups]  # what a run has of its own, row by row
    means = [one.mean(axis=1, keepdims=True) for one in apart]
    runs = sum(float((one**2).sum()) for one in means) / free
    noise = sum(
        float(((one - mean) ** 2).sum()) for one, mean in zip(apart, means, strict=True)
    ) / (free * (n - 1))
    difference = groups[0].mean(axis=0) - groups[1].mean(axis=0)
    estimate = float(difference.mean())
    rows = float((difference - estimate * share).var(ddof=1))
    both = 1 / k + 1 / m
    by_runs, by_rows = both * runs, max(0.0, rows - both * noise) / n
    total = by_runs + by_rows
    if total == 0.0:
        return Interval(estimate, estimate, estimate, n, level), float(estimate == 0.0)
    freedom = math.floor(total**2 / (by_runs**2 / free + by_rows**2 / (n - 1)))
    half = student_quantile((1 + level) / 2, freedom) * math.sqrt(total)
    p = 1.0 - student_within(estimate / math.sqrt(total), freedom)
    return Interval(estimate, estimate - half, estimate + half, n, level), p
