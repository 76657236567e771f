"""Strengths of several models from verdicts on pairs of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError, StropFailure
from strop.stats.interval import Interval

STEPS = 100  #: of Newton's method, at most


def bradley_terry(
    verdicts: Sequence[tuple[str, str, float]], level: float = 0.95
) -> dict[str, Interval]:
    """Estimate strengths s such that P(a beats b) = sigma(s_a - s_b); their mean is zero.

    A verdict is (a, b, outcome): 1 if a won, 0 if b did, 1/2 for a tie, which counts as half of
    each. In units of log odds; 400 / ln 10 times that is the scale of Elo. The strongest comes
    first; n counts the verdicts on a model. (Bradley & Terry 1952, Biometrika 39, 324.)

    Raises StropError for a model against itself, outcomes outside [0, 1], and where strengths are
    not finite: some models never lost to, or never met, the others (Ford 1957); StropFailure if
    they are so far apart that Newton's method does not find them.
    """
    names = sorted({name for a, b, _ in verdicts for name in (a, b)})
    if len(names) < 2:
        raise StropError("strengths need verdicts on at least two models")
    index = {name: number for number, name in enumerate(names)}
    first = np.array([index[a] for a, _, _ in verdicts])
    second = np.array([index[b] for _, b, _ in verdicts])
    outcomes = np.array([float(outcome) for _, _, outcome in verdicts])
    if (first == second).any():
        raise StropError("a verdict needs two models, not one and itself")
    if not ((outcomes >= 0) & (outcomes <= 1)).all():
        raise StropError("the outcome of a verdict lies between 0 and 1")
    check_connected(names, first, second, outcomes)
    count = len(names)
    strengths = np.zeros(count)
    for _ in range(STEPS):
        residuals, weights = parts(strengths, first, second, outcomes)
        gradient = np.zeros(count)
        np.add.at(gradient, first, residuals)
        np.add.at(gradient, second, -residuals)
        # Adding a constant to each entry holds the mean at zero.
        step = np.linalg.solve(information(weights, first, second, count) + 1 / count, gradient)
        strengths = strengths + step / max(1.0, float(abs(step).max()))
        if abs(step).max() < 1e-10:
            break
    else:
        raise StropFailure(f"strengths were not found in {STEPS} steps: verdicts are too one-sided")
    variance = strength_variance(strengths, first, second, outcomes)
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    met = np.bincount(first, minlength=count) + np.bincount(second, minlength=count)
    found = {
        name: Interval(float(s), float(s - half), float(s + half), int(n), level)
        for name, s, half, n in zip(names, strengths, z * np.sqrt(variance), met, strict=True)
    }
    return dict(sorted(found.items(), key=lambda one: -one[1].estimate))


Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


def strength_variance(
    strengths: Numbers, first: Indices, second: Indices, outcomes: Numbers
) -> Numbers:
    """Return the variance of each strength.

    It is that of the residuals, as ties vary less than wins and losses, with a factor for few of
    them (White 1982; MacKinnon & White 1985, equation HC1). Each two models that met get one more
    win of either, without which ties alone would have no variance: what Bonett & Price (2012) do
    for two proportions of the same trials.
    """
    count = len(strengths)
    ours, theirs = np.unique(np.sort([first, second], axis=0), axis=1)
    first = np.concatenate([first, ours, ours])
    second = np.concatenate([second, theirs, theirs])
    outcomes = np.concatenate([outcomes, np.ones(len(ours)), np.zeros(len(ours))])
    residuals, weights = parts(strengths, first, second, outcomes)
    inverse = np.linalg.inv(information(weights, first, second, count) + 1 / count)
    middle = information(residuals**2, first, second, count)
    factor = len(outcomes) / (len(outcomes) - (count - 1))
    found: Numbers = factor * np.diag(inverse @ middle @ inverse)
    return found


def parts(
    strengths: Numbers, first: Indices, second: Indices, outcomes: Numbers
) -> tuple[Numbers, Numbers]:
    """Return residuals and weights of the logistic regression."""
    p = 1.0 / (1.0 + np.exp(strengths[second] - strengths[first]))
    return outcomes - p, p * (1.0 - p)


def information(weights: Numbers, first: Indices, second: Indices, count: int) -> Numbers:
    """Return the sum of weights times (e_first - e_second) (e_first - e_second)'."""
    found = np.zeros((count, count))
    for rows, columns, sign in (
        (first, first, 1.0),
        (second, second, 1.0),
        (first, second, -1.0),
        (second, first, -1.0),
    ):
        np.add.at(found, (rows, columns), sign * weights)
    return found


def check_connected(
    names: Sequence[str], first: Indices, second: Indices, outcomes: Numbers
) -> None:
    """Raise StropError unless from each model a chain of wins, or ties, leads to each other."""
    reach = np.eye(len(names), dtype=bool)
    reach[first[outcomes > 0], second[outcomes > 0]] = True
    reach[second[outcomes < 1], first[outcomes < 1]] = True
    for _ in range(math.ceil(math.log2(len(names)))):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    if not reach.all():
        a, b = map(int, np.argwhere(~reach)[0])
        raise StropError(
            f"strengths are not finite: {names[a]} has neither beaten {names[b]} nor any that did; "
            "more verdicts are needed, or leave one of them out"
        )
