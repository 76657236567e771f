"""Tests of significance, against scipy, statsmodels and the figures of a paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from strop.errors import StropError
from strop.stats import holm, mcnemar, permutation_test, sign_test, spelled_p


def test_alpagasus_has_two_p_values_below_a_twentieth() -> None:
    """Verdicts of arXiv 2307.08701, figure 4 (7B, Vicuna), and of its four sets together."""
    assert sign_test(41, 24) == pytest.approx(0.046, abs=5e-4)
    assert sign_test(284, 236) == pytest.approx(0.039, abs=5e-4)
    four = [sign_test(*one) for one in ((41, 24), (70, 66), (83, 70), (90, 76))]
    assert min(holm(four)) > 0.05


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_the_sign_test_is_the_binomial_one(wins: int, losses: int) -> None:
    wanted = scipy_stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(wanted, rel=1e-7)


def test_mcnemar_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(200) < 0.7, rng.random(200) < 0.6
    counts = [[(a & b).sum() for b in (theirs, ~theirs)] for a in (ours, ~ours)]
    assert mcnemar(ours, theirs) == pytest.approx(their_mcnemar(counts, exact=True).pvalue)


@pytest.mark.parametrize("n", [8, 60])
def test_the_permutation_test_is_that_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(0.4, 1.0, n)
    b = rng.normal(0.0, 1.0, n)
    wanted = scipy_stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=50_000, rng=0
    ).pvalue
    tolerance = 1e-9 if n == 8 else 0.005
    assert permutation_test(a, b, 50_000) == pytest.approx(wanted, abs=tolerance)


def test_the_permutation_test_finds_one_in_twenty_where_there_is_nothing() -> None:
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(400, 2, 12))
    found = [permutation_test(a, b, 500, seed) < 0.05 for seed, (a, b) in enumerate(samples)]
    assert 0.02 <= np.mean(found) <= 0.08


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_what_cannot_be_tested_is_said() -> None:
    with pytest.raises(StropError, match="must not be negative"):
        sign_test(-1, 3)
    with pytest.raises(StropError, match="differ in shape"):
        mcnemar([True], [True, False])
    with pytest.raises(StropError, match="finite"):
        permutation_test([1.0, np.nan], [0.0, 0.0])
    with pytest.raises(StropError, match="shape"):
        permutation_test([], [])


def test_no_p_is_said_to_be_zero() -> None:
    assert spelled_p(0.0456) == "p = 0.046"
    assert spelled_p(1e-9) == "p < 0.001"
