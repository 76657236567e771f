"""Sample sizes, against published figures, statsmodels, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from strop.errors import StropError
from strop.stats import (
    detectable,
    needed,
    needed_for_width,
    needed_verdicts,
    net_win_rate,
    paired_proportions,
    sign_test,
    verdict_deviation,
    wilson,
)


@pytest.mark.parametrize(
    ("n", "rate"), [(80, 0.633), (180, 0.589), (218, 0.580), (252, 0.575), (730, 0.544)]
)
def test_what_the_test_sets_of_alpagasus_can_show(n: int, rate: float) -> None:
    assert 0.5 + detectable(n, verdict_deviation(ties=0.28)) == pytest.approx(rate, abs=6e-4)


def test_how_many_verdicts_show_a_split() -> None:
    assert needed_verdicts(0.55) == 783
    assert needed_verdicts(0.55, ties=0.3) == 1118
    assert needed_verdicts(0.45, ties=0.3) == 1118
    assert needed_verdicts(0.6, ties=0.3) == 277


@pytest.mark.parametrize("difference", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_needed_is_that_of_statsmodels_and_undone_by_detectable(
    difference: float, power: float
) -> None:
    # With no second group (ratio 0) the test of two groups is that of one.
    wanted = NormalIndPower().solve_power(difference, power=power, alpha=0.05, ratio=0)
    found = needed(3 * difference, 3.0, power=power)
    assert found == math.ceil(wanted)
    assert detectable(found, 3.0, power=power) <= 3 * difference
    assert detectable(found - 1, 3.0, power=power) > 3 * difference


def test_so_many_verdicts_show_it_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    wins = rng.binomial(783, 0.55, 2000)
    shown = np.mean([sign_test(int(one), 783 - int(one)) < 0.05 for one in wins])
    assert 0.77 <= shown <= 0.83
    nothing = rng.binomial(783, 0.5, 2000)
    assert np.mean([sign_test(int(one), 783 - int(one)) < 0.05 for one in nothing]) < 0.06


@given(st.floats(0.01, 0.4), st.floats(0, 1))
def test_a_proportion_to_within_a_width(half: float, proportion: float) -> None:
    n = needed_for_width(half, proportion)

    def width(trials: int) -> float:
        found = wilson(proportion * trials, trials)
        return (found.high - found.low) / 2

    assert width(n) <= half * (1 + 1e-9)
    assert n == 1 or width(n - 1) > half * (1 - 1e-9)


def test_net_win_rates_of_alpagasus() -> None:
    """Wins, ties and losses of arXiv 2307.08701, figure 4: Vicuna, and four sets together."""
    assert f"{net_win_rate(41, 15, 24):.2f}" == "0.61 [0.51, 0.70]"
    assert net_win_rate(41, 15, 24).estimate == pytest.approx(0.606, abs=5e-4)
    assert f"{net_win_rate(284, 210, 236):.2f}" == "0.53 [0.50, 0.56]"
    assert net_win_rate(284, 210, 236).n == 730


def slow_score(first: int, second: int, n: int, difference: float) -> float:
    """Return Tango's statistic, the likeliest share under the difference found by search."""

    def unlikely(share: float) -> float:
        parts = ((first, share + difference), (second, share), (n - first - second, 0.0))
        rest = 1 - 2 * share - difference
        return -sum(
            count * math.log(max(p, 1e-300)) for count, p in (*parts[:2], (parts[2][0], rest))
        )

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(unlikely, (low, high), (low, high), method="bounded").x
    deviation = math.sqrt(n * (2 * share + difference - difference**2))
    return (first - second - n * difference) / deviation


@pytest.mark.parametrize(("first", "second", "n"), [(9, 4, 50), (1, 12, 44), (30, 3, 60)])
def test_ends_of_paired_proportions_are_two_standard_errors_away(
    first: int, second: int, n: int
) -> None:
    found = paired_proportions(first, second, n)
    assert slow_score(first, second, n, found.low) == pytest.approx(1.96, abs=1e-3)
    assert slow_score(first, second, n, found.high) == pytest.approx(-1.96, abs=1e-3)


def test_paired_proportions_where_nothing_or_everything_differs() -> None:
    even = paired_proportions(0, 0, 44)
    z = 1.959964
    assert even.high == -even.low == pytest.approx(z * z / (44 + z * z), abs=1e-6)
    assert paired_proportions(44, 0, 44).high == 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_paired_proportions_are_symmetric_and_hold_the_estimate(a: int, b: int, rest: int) -> None:
    if a + b + rest == 0:
        return
    found, turned = paired_proportions(a, b, a + b + rest), paired_proportions(b, a, a + b + rest)
    assert -1 <= found.low <= found.estimate <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low), abs=1e-9)


def test_wilson_is_that_of_statsmodels() -> None:
    for successes, n in ((0, 5), (3, 10), (70, 80)):
        found = wilson(successes, n)
        low, high = proportion_confint(successes, n, method="wilson")
        assert (found.low, found.high) == pytest.approx((low, high))


def test_what_has_no_answer_is_said() -> None:
    for ask in (
        lambda: detectable(0, 1.0),
        lambda: needed(0.0, 1.0),
        lambda: needed(0.1, 1.0, power=1.0),
        lambda: needed(0.1, 1.0, level=0.0),
        lambda: detectable(9, 1.0, level=float("nan")),
        lambda: needed_verdicts(0.6, power=1.0),
        lambda: needed_verdicts(0.6, level=1.0),
        lambda: needed_for_width(0.1, level=1.0),
        lambda: needed_verdicts(0.5),
        lambda: needed_verdicts(0.6, ties=1.0),
        lambda: needed_for_width(0.6),
        lambda: needed_for_width(0.1, 1.1),
        lambda: net_win_rate(0, 0, 0),
        lambda: paired_proportions(3, 3, 5),
    ):
        with pytest.raises(StropError):
            ask()
