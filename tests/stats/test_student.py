"""Intervals of the mean of a few normal samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from strop.errors import StropError
from strop.stats import student, verdict
from strop.stats.student import student_within


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_of_a_few_normal_samples_holds_the_truth_as_often_as_it_says(n: int) -> None:
    random = np.random.default_rng(0)
    hits = sum(not student(random.normal(1, 2, n)).excludes(1.0) for _ in range(2000))
    assert 0.93 < hits / 2000 < 0.97


def test_an_interval_by_hand() -> None:
    found = student([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # t of two degrees of freedom at 97.5%
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert (found.estimate, found.n) == (2, 3)


def test_a_verdict_of_few_samples_has_to_be_asked_for() -> None:
    found = student([1.0, 1.1, 0.9])
    assert verdict(found, lower_is_better=False) == "cannot tell"
    assert verdict(found, lower_is_better=False, least=2) == "better"


@pytest.mark.parametrize("bad", [[1.0], [], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_an_error(bad: list[float]) -> None:
    with pytest.raises(StropError, match="an interval needs"):
        student(bad)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 31, 200])
def test_the_distribution_is_that_of_scipy(freedom: int) -> None:
    for t in (0.0, 0.3, -1.0, 2.5, 12.0):
        expected = 1 - 2 * scipy.stats.t.sf(abs(t), freedom)
        assert student_within(t, freedom) == pytest.approx(expected, abs=1e-12)
