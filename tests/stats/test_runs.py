"""Differences of methods, from several runs of each on the same rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from strop.errors import StropError
from strop.stats import run_difference, student, verdict
from strop.stats.student import student_quantile

Random = np.random.Generator


def study(
    rng: Random, k: int, m: int, n: int, run: float, noise: float, apart: float, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw losses of k and m runs on n rows: ours are lower by `gain`, more or less by the row."""
    rows = rng.gamma(4.0, 0.5, n)
    ours = rows - gain + rng.normal(0, apart, n)

    def runs(mean: np.ndarray, count: int) -> np.ndarray:
        own = rng.normal(0, run, (count, 1)) + rng.normal(0, noise, (count, n))
        return np.asarray(mean + own)

    return runs(ours, k), runs(rows, m)


def test_where_rows_do_not_matter_it_is_the_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 0.1, 3), rng.normal(1.1, 0.1, 5)
    flat = np.ones((1, 40))
    found, p = run_difference(a[:, None] * flat, b[:, None] * flat)
    expected = scipy.stats.ttest_ind(a, b)
    interval = expected.confidence_interval(0.95)
    assert p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=2e-3)


def test_no_degree_of_freedom_is_lost_to_rounding() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        k, m = rng.integers(2, 6, 2)
        a, b = rng.normal(1.0, 0.1, k), rng.normal(1.1, 0.1, m)
        flat = np.ones((1, 40))
        found, _ = run_difference(a[:, None] * flat, b[:, None] * flat)
        variance = ((k - 1) * a.var(ddof=1) + (m - 1) * b.var(ddof=1)) / (k + m - 2)
        half = student_quantile(0.975, k + m - 2) * np.sqrt(variance * (1 / k + 1 / m))
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-6)


def test_where_runs_are_alike_it_is_the_paired_test_over_rows() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1.0, 0.1, 40), rng.normal(1.0, 0.1, 40)
    found, p = run_difference(np.tile(a, (3, 1)), np.tile(b, (2, 1)))
    expected = student(a - b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)


def test_weights_make_it_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.integers(20, 200, 30).astype(float)
    a, b = tokens * rng.normal(2.0, 0.2, (3, 30)), tokens * rng.normal(2.1, 0.2, (4, 30))
    found, _ = run_difference(a, b, tokens)
    expected = (a.sum(axis=1) / tokens.sum()).mean() - (b.sum(axis=1) / tokens.sum()).mean()
    assert found.estimate == pytest.approx(expected)
    again, _ = run_difference(a * 7, b * 7, tokens * 7)
    assert again.low == pytest.approx(found.low)


def test_without_any_difference() -> None:
    same = np.ones((2, 5))
    assert run_difference(same, same) == (run_difference(same, same)[0], 1.0)
    assert not run_difference(same, same)[0].excludes(0.0)


@pytest.mark.parametrize(
    ("k", "m", "n", "run", "noise", "apart"),
    [
        (1, 5, 120, 0.02, 0.05, 0.0),
        (2, 5, 120, 0.02, 0.05, 0.1),
        (3, 5, 60, 0.0, 0.1, 0.0),
        (3, 3, 200, 0.005, 0.02, 0.3),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    k: int, m: int, n: int, run: float, noise: float, apart: float
) -> None:
    rng = np.random.default_rng(3)
    found = [run_difference(*study(rng, k, m, n, run, noise, apart, 0.1))[0] for _ in range(3000)]
    assert 0.93 < np.mean([not one.excludes(-0.1) for one in found]) < 0.97


@pytest.mark.parametrize(("run", "apart"), [(0.03, 0.0), (0.005, 0.1)])
def test_intervals_of_ratios_hold_the_truth_as_often_as_they_say(run: float, apart: float) -> None:
    """Losses are sums over the tokens of a row, of which some have ten times as many as others."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(3000):
        tokens = rng.integers(20, 200, 120).astype(float)
        ours, theirs = study(rng, 3, 5, 120, run, 0.05, apart, 0.1)
        held += not run_difference(ours * tokens, theirs * tokens, tokens)[0].excludes(-0.1)
    assert 0.93 < held / 3000 < 0.97


def test_a_method_that_is_random_in_disguise_is_called_neither_better_nor_worse() -> None:
    """Its runs are drawn as those of random rows: each word has half of 5 in 100 studies.

    Of 2,000 studies that is 50, with a deviation of 7. Of each 100 in turn, at least 93 do not call
    it better.
    """
    rng = np.random.default_rng(4)
    words = []
    for _ in range(2000):
        ours, random = study(rng, 2, 5, 120, 0.01, 0.05, 0.0, 0.0)
        words.append(verdict(run_difference(ours, random)[0], lower_is_better=True))
    assert words.count("better") / 2000 < 0.025 + 0.01
    assert words.count("worse") / 2000 < 0.025 + 0.01
    assert min(100 - words[at : at + 100].count("better") for at in range(0, 2000, 100)) >= 93
    # The negative control: an interval over rows of the first run of each calls it far too often.
    naive = []
    for _ in range(500):
        ours, random = study(rng, 2, 5, 120, 0.01, 0.05, 0.0, 0.0)
        naive.append(verdict(student(ours[0] - random[0]), lower_is_better=True))
    assert naive.count("better") / 500 > 0.1
    assert naive.count("worse") / 500 > 0.1


def test_a_method_that_helps_is_called_better() -> None:
    rng = np.random.default_rng(5)
    found = run_difference(*study(rng, 2, 5, 120, 0.01, 0.05, 0.05, 0.1))[0]
    assert verdict(found, lower_is_better=True) == "better"


@pytest.mark.parametrize(
    "make",
    [
        lambda: run_difference(np.ones((1, 5)), np.ones((1, 5))),
        lambda: run_difference(np.ones((2, 5)), np.ones((3, 4))),
        lambda: run_difference(np.ones((2, 1)), np.ones((3, 1))),
        lambda: run_difference(np.ones(5), np.ones((3, 5))),
        lambda: run_difference(np.full((2, 5), np.nan), np.ones((3, 5))),
        lambda: run_difference(np.ones((2, 5)), np.ones((3, 5)), np.ones(4)),
    ],
)
def test_what_has_no_interval_is_an_error(make: Callable[[], object]) -> None:
    with pytest.raises(StropError):
        make()
