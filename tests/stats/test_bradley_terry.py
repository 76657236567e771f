"""Strengths from verdicts on pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import statsmodels.api as sm

from strop.errors import StropError, StropFailure
from strop.stats import bradley_terry, net_win_rate


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
    theirs = sm.Logit([outcome for *_, outcome in rows], reduced).fit(disp=0)
    found = bradley_terry(rows)
    for number, name in enumerate(names[:2]):
        assert found[name].estimate == pytest.approx(theirs.params[number], abs=1e-6)
        wanted = 1.959964 * slow_deviation(rows, theirs.params, number)
        assert found[name].estimate - found[name].low == pytest.approx(wanted, abs=1e-5)
        assert found[name].high - found[name].estimate == pytest.approx(wanted, abs=1e-5)
    assert sum(one.estimate for one in found.values()) == pytest.approx(0, abs=1e-9)


def slow_deviation(
    rows: list[tuple[str, str, float]], strengths: Sequence[float], number: int
) -> float:
    """Return a standard error, verdict by verdict, with one more win of either of each two."""
    known = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0]), "c": np.array([-1.0, -1.0])}
    met = {tuple(sorted((a, b))) for a, b, _ in rows}
    every = [*rows, *((a, b, outcome) for a, b in met for outcome in (0.0, 1.0))]
    bread, middle = np.zeros((2, 2)), np.zeros((2, 2))
    for a, b, outcome in every:
        x = known[a] - known[b]
        p = 1 / (1 + np.exp(-float(x @ strengths)))
        bread += p * (1 - p) * np.outer(x, x)
        middle += (outcome - p) ** 2 * np.outer(x, x)
    variance = np.linalg.inv(bread) @ middle @ np.linalg.inv(bread)
    return float(np.sqrt(len(every) / (len(every) - 2) * variance[number, number]))


def test_a_tie_is_half_a_win_of_each() -> None:
    even = bradley_terry([("a", "b", 0.5)] * 10)
    assert even["a"].estimate == pytest.approx(0, abs=1e-9)
    rows = verdicts(COUNTS)
    swapped = [(b, a, 1 - outcome) for a, b, outcome in rows]
    assert bradley_terry(rows)["b"].estimate == pytest.approx(bradley_terry(swapped)["b"].estimate)


def test_ties_alone_are_no_certainty() -> None:
    widths = []
    for count in (1, 5, 20, 80):
        found = bradley_terry([("a", "b", 0.5)] * count)["a"]
        assert found.low < 0 < found.high
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    # As of the net win rate: P(a beats b) is sigma of twice the strength of a.
    ends = [1 / (1 + np.exp(-2 * end)) for end in (found.low, found.high)]
    rate = net_win_rate(0, 80, 0)
    assert ends[1] - ends[0] == pytest.approx(rate.high - rate.low, rel=0.4)


def test_strengths_that_are_not_found_are_not_given() -> None:
    # Each of forty models is far stronger than the next: the first is 300 above the last.
    rows = [(f"{n:02}", f"{n + 1:02}", 0.9995) for n in range(40)]
    with pytest.raises(StropFailure, match="not found in 100 steps"):
        bradley_terry(rows)
    assert bradley_terry(rows[:10])["00"].estimate == pytest.approx(5 * np.log(1999), abs=1e-6)


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
