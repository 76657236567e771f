"""How often intervals hold the truth: 93 to 97 in 100 where 95 are promised, by simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from strop.stats import (
    Interval,
    bootstrap,
    bradley_terry,
    length_controlled,
    mean,
    net_win_rate,
    paired_difference,
    paired_proportions,
    ratio,
    student,
    wilson,
)

SETS = 3000  #: simulated studies; a share of 95% is then known to within 0.8%
Random = np.random.Generator


def proportion(rng: Random) -> tuple[Interval, float]:
    return wilson(int(rng.binomial(80, 0.3)), 80), 0.3


def even_wins(rng: Random) -> tuple[Interval, float]:
    wins, ties, losses = map(int, rng.multinomial(80, [0.46, 0.28, 0.26]))
    return net_win_rate(wins, ties, losses), 0.6


def accuracies(rng: Random) -> tuple[Interval, float]:
    first, second, _ = map(int, rng.multinomial(120, [0.12, 0.05, 0.83]))
    return paired_proportions(first, second, 120), 0.07


def few_seeds(rng: Random) -> tuple[Interval, float]:
    return student(rng.normal(1.0, 0.2, 4)), 1.0


def losses(rng: Random) -> tuple[Interval, float]:
    return bootstrap(rng.gamma(4.0, 0.5, 60), mean, resamples=1000, seed=int(rng.integers(1e9))), 2


def few_samples(rng: Random) -> tuple[Interval, float]:
    return bootstrap(rng.normal(3.0, 2.0, 8), resamples=1000, seed=int(rng.integers(1e9))), 3.0


def paired(rng: Random) -> tuple[Interval, float]:
    theirs = rng.gamma(4.0, 0.5, 60)
    ours = theirs + rng.normal(0.1, 0.3, 60)
    seed = int(rng.integers(1e9))
    return paired_difference(ours, theirs, resamples=1000, seed=seed), 0.1


def documents(rng: Random) -> tuple[Interval, float]:
    tokens = rng.integers(50, 500, 40)
    rows = np.stack([rng.normal(2.5 * tokens, 40.0), tokens], axis=1)
    return bootstrap(rows, ratio, resamples=1000, seed=int(rng.integers(1e9))), 2.5


def at_equal_length(rng: Random) -> tuple[Interval, float]:
    longer = rng.normal(0.0, 20.0, 300) + 15.0
    p = 1 / (1 + np.exp(-(0.4 + 0.8 * np.tanh(longer / 20.0))))
    wins = (rng.random(300) < p).astype(float)
    return length_controlled(wins, longer), 1 / (1 + np.exp(-0.4))


def strengths(rng: Random) -> tuple[Interval, float]:
    true = {"a": 0.6, "b": 0.1, "c": -0.7}
    verdicts = []
    for a, b in (("a", "b"), ("b", "c"), ("c", "a")):
        p = 1 / (1 + np.exp(true[b] - true[a]))
        for _ in range(80):
            decided = rng.random() > 0.3  # ties take as much from both
            verdicts.append((a, b, float(rng.random() < p) if decided else tied(rng, p)))
    return bradley_terry(verdicts)["a"], 0.6


def strengths_of_many_ties(rng: Random) -> tuple[Interval, float]:
    true = {"a": 0.1, "b": 0.0, "c": -0.1}
    verdicts = []
    for a, b in (("a", "b"), ("b", "c"), ("c", "a")):
        p = 1 / (1 + np.exp(true[b] - true[a]))
        some = rng.choice([1.0, 0.5, 0.0], 40, p=[p - 0.4, 0.8, 0.6 - p])  # their mean is p
        verdicts += [(a, b, float(one)) for one in some]
    return bradley_terry(verdicts)["a"], 0.1


def tied(rng: Random, p: float) -> float:
    """Draw outcomes of 0, 1/2 and 1 whose mean is p."""
    room = min(p, 1 - p)
    return float(rng.choice([1.0, 0.5, 0.0], p=[p - room / 2, room, 1 - p - room / 2]))


@pytest.mark.parametrize(
    "study",
    [
        proportion,
        even_wins,
        accuracies,
        few_seeds,
        losses,
        few_samples,
        paired,
        documents,
        at_equal_length,
        strengths,
        strengths_of_many_ties,
    ],
)
def test_intervals_hold_the_truth(study: Callable[[Random], tuple[Interval, float]]) -> None:
    assert 0.93 <= share(results(study)) <= 0.97


def test_negative_control_copies_of_samples_are_not_samples() -> None:
    def copied(rng: Random) -> tuple[Interval, float]:
        return student(np.repeat(rng.normal(0.0, 1.0, 8), 5)), 0.0

    assert share(results(copied)) < 0.85


def results(study: Callable[[Random], tuple[Interval, float]]) -> Iterator[bool]:
    rng = np.random.default_rng(0)
    for _ in range(SETS):
        found, truth = study(rng)
        yield not found.excludes(truth)


def share(found: Iterator[bool]) -> float:
    return float(np.mean(list(found)))
