"""How often one of two answers wins: with ties, and as if both were equally long."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from strop.errors import StropError
from strop.stats.interval import Interval, Verdict, verdict
from strop.stats.proportion import paired_proportions

STEPS = 50  #: of Newton's method, at most
PRIOR = 0.01  #: verdicts that a prior is worth, which only keeps numbers finite


def net_win_rate(wins: int, ties: int, losses: int, level: float = 0.95) -> Interval:
    """Estimate (wins + ties / 2) / n: one half for equal models.

    The interval is that of wins - losses, paired by prompt, `paired_proportions`; without ties it
    is close to `wilson`. Raises StropError for no verdicts.
    """
    n = wins + ties + losses
    found = paired_proportions(wins, losses, n, level)
    low, high = ((1.0 + end) / 2.0 for end in (found.low, found.high))
    return Interval((wins + ties / 2.0) / n, low, high, n, level)


def against_half(rate: Interval, p: float = 0.0) -> Verdict:
    """Say whether a rate of wins differs from one half; p as for `verdict`."""
    moved = Interval(rate.estimate - 0.5, rate.low - 0.5, rate.high - 0.5, rate.n, rate.level)
    return verdict(moved, lower_is_better=False, p=p)


def length_controlled(wins: ArrayLike, longer: ArrayLike, level: float = 0.95) -> Interval:
    """Estimate the win rate at equal lengths.

    `wins` (n,) is 1, 1/2 or 0 for each prompt, `longer` (n,) by how much our answer is longer. It
    is sigma(a) of the regression P(win) = sigma(a + b tanh(longer / its deviation)) (Dubois et al.
    2024, arXiv 2404.04475, section 3.1, for two models); the interval is that of a, with the
    variance that the residuals have (White 1982). Where lengths or verdicts do not vary there is
    nothing to control for: `net_win_rate`. Raises StropError for verdicts and lengths that differ
    in shape, and there for verdicts that cannot be counted.
    """
    y, lengths = np.asarray(wins, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    if y.shape != lengths.shape or y.ndim != 1:
        raise StropError(f"verdicts and lengths differ in shape: {y.shape} and {lengths.shape}")
    n, spread = len(y), float(lengths.std()) if len(y) else 0.0
    if not spread or not y.std():
        won, even, lost = (int((y == outcome).sum()) for outcome in (1.0, 0.5, 0.0))
        if won + even + lost < n:
            raise StropError("a win rate counts verdicts of 1, 1/2 and 0: found another")
        return net_win_rate(won, even, lost, level)
    x = np.stack([np.ones(n), np.tanh(lengths / spread)], axis=1)
    theta = np.zeros(2)
    for _ in range(STEPS):
        p = 1.0 / (1.0 + np.exp(-x @ theta))
        information = (x * (p * (1.0 - p))[:, None]).T @ x + PRIOR * np.eye(2)
        step = np.linalg.solve(information, x.T @ (y - p) - PRIOR * theta)
        theta = theta + step / max(1.0, float(abs(step).max()))
        if abs(step).max() < 1e-10:
            break
    p = 1.0 / (1.0 + np.exp(-x @ theta))
    information = (x * (p * (1.0 - p))[:, None]).T @ x + PRIOR * np.eye(2)
    scores = x * (y - p)[:, None]
    inverse = np.linalg.inv(information)
    variance = inverse @ (scores.T @ scores) @ inverse * n / (n - 2) if n > 2 else inverse
    half = NormalDist().inv_cdf((1.0 + level) / 2.0) * math.sqrt(variance[0, 0])
    estimate, low, high = (
        1.0 / (1.0 + math.exp(-(theta[0] + shift))) for shift in (0.0, -half, half)
    )
    return Interval(estimate, low, high, n, level)
