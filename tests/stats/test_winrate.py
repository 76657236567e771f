"""Win rates at equal lengths."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from strop.errors import StropError
from strop.stats import length_controlled, net_win_rate


def answers(effect: float, by_length: float, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Wins that depend on quality and on length, where ours are longer."""
    random = np.random.default_rng(1)
    longer = random.normal(10, 20, n)
    p = 1 / (1 + np.exp(-(effect + by_length * np.tanh(longer / longer.std()))))
    return (random.random(n) < p).astype(float), longer


def test_it_is_the_logistic_regression_of_statsmodels() -> None:
    wins, longer = answers(effect=0.5, by_length=1.0)
    found = length_controlled(wins, longer)
    x = sm.add_constant(np.tanh(longer / longer.std()))
    theirs = sm.Logit(wins, x).fit(disp=0, cov_type="HC1")
    low, high = (1 / (1 + np.exp(-end)) for end in theirs.conf_int()[0])
    assert found.estimate == pytest.approx(1 / (1 + np.exp(-theirs.params[0])), abs=1e-3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_length_control_takes_out_what_length_explains() -> None:
    wins, longer = answers(effect=0.0, by_length=3.0)
    assert wins.mean() > 0.6
    assert not length_controlled(wins, longer).excludes(0.5)
    wins, longer = answers(effect=1.0, by_length=3.0)
    assert length_controlled(wins, longer).low > 0.5


def test_without_lengths_it_is_the_win_rate() -> None:
    wins = np.array([1.0, 0.0, 1.0, 1.0, 0.5] * 10)
    assert length_controlled(wins, np.zeros(50)) == net_win_rate(30, 10, 10)
    assert length_controlled(wins, np.zeros(50), level=0.8) == net_win_rate(30, 10, 10, level=0.8)
    assert length_controlled(np.ones(50), np.arange(50)) == net_win_rate(50, 0, 0)
    assert length_controlled(np.full(50, 0.5), np.arange(50)) == net_win_rate(0, 50, 0)
    wins, longer = answers(effect=0.8, by_length=0.0)
    assert length_controlled(wins, longer).estimate == pytest.approx(wins.mean(), abs=0.05)


def test_answers_that_lengths_separate() -> None:
    longer = np.linspace(-1, 1, 40)
    found = length_controlled((longer > 0).astype(float), longer)
    assert 0.2 < found.estimate < 0.8


def test_verdicts_that_are_none_cannot_be_counted() -> None:
    with pytest.raises(StropError, match="1, 1/2 and 0"):
        length_controlled([1.0, 0.3], [5.0, 5.0])


def test_shapes_must_agree() -> None:
    with pytest.raises(StropError, match="differ in shape"):
        length_controlled([1.0], [1.0, 2.0])
