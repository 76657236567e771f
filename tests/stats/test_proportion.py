import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.errors import StropError
from strop.stats import wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_equals_the_published_intervals(successes, n, low, high):
    interval = wilson(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)
    assert interval.estimate == successes / n
    assert interval.n == n


@given(st.integers(1, 10_000), st.data(), st.floats(0.5, 0.999))
def test_holds_the_estimate_stays_in_range_and_mirrors(n, data, level):
    successes = data.draw(st.integers(0, n))
    interval, mirror = wilson(successes, n, level), wilson(n - successes, n, level)
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0
    assert interval.low < interval.high
    assert mirror.low == pytest.approx(1.0 - interval.high, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(StropError, match="a proportion needs"):
        wilson(successes, n)
