"""Strengths from verdicts on pairs."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from strop.errors import StropError
from strop.stats import bradley_terry


def verdicts(counts: dict[tuple[str, str], tuple[int, int]]) -> list[tuple[str, str, float]]:
    return [
        (a, b, outcome)
        for (a, b), (wins, losses) in counts.items()
        for outcome in [1.0] * wins + [0.0] * losses
    ]


COUNTS = {("a", "b"): (30, 20), ("b", "c"): (25, 15), ("c", "a"): (12, 28)}


def test_two_models_have_the_log_odds_of_their_wins() -> None:
    found = bradley_terry(verdicts({("x", "y"): (30, 10)}))
    assert list(found) == ["x", "y"]
    assert found["x"].estimate - found["y"].estimate == pytest.approx(np.log(3))
    assert found["x"].n == 40


def test_it_is_the_logistic_regression_of_statsmodels() -> None:
    rows = verdicts(COUNTS)
    names = ["a", "b", "c"]
    x = np.array([[(one == a) - (one == b) for one in names] for a, b, _ in rows], float)
    # With c = -a - b the mean is zero.
    reduced = x[:, :2] - x[:, 2:]
    theirs = sm.Logit([outcome for *_, outcome in rows], reduced).fit(disp=0, cov_type="HC0")
    found = bradley_terry(rows)
    for number, name in enumerate(names[:2]):
        assert found[name].estimate == pytest.approx(theirs.params[number], abs=1e-6)
        wanted = theirs.conf_int()[number]
        assert (found[name].low, found[name].high) == pytest.approx(tuple(wanted), abs=1e-4)
    assert sum(one.estimate for one in found.values()) == pytest.approx(0, abs=1e-9)


def test_a_tie_is_half_a_win_of_each() -> None:
    even = bradley_terry([("a", "b", 0.5)] * 10)
    assert even["a"].estimate == pytest.approx(0, abs=1e-9)
    rows = verdicts(COUNTS)
    swapped = [(b, a, 1 - outcome) for a, b, outcome in rows]
    assert bradley_terry(rows)["b"].estimate == pytest.approx(bradley_terry(swapped)["b"].estimate)


def test_what_has_no_finite_strengths_is_said() -> None:
    with pytest.raises(StropError, match="b has neither beaten a nor any that did"):
        bradley_terry(verdicts({("a", "b"): (5, 0)}))
    with pytest.raises(StropError, match="neither beaten"):
        bradley_terry(verdicts({("a", "b"): (5, 5), ("c", "d"): (5, 5)}))
    with pytest.raises(StropError, match="two models"):
        bradley_terry([])
    with pytest.raises(StropError, match="one and itself"):
        bradley_terry([("a", "b", 1.0), ("b", "b", 0.0)])
    with pytest.raises(StropError, match="between 0 and 1"):
        bradley_terry([("a", "b", float("nan"))])
