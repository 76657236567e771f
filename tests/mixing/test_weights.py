"""Domain weights: baselines, and what a domain can supply."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.errors import StropError
from strop.mixing.weights import (
    capped,
    entropy,
    limits,
    natural,
    repetitions,
    tempered,
    uniform,
)

SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=20)


@given(SIZES, st.floats(0, 1))
def test_weights_add_up_and_keep_the_order_of_sizes(sizes: list[int], exponent: float) -> None:
    weights = tempered(sizes, exponent)
    assert weights.sum() == pytest.approx(1)
    order = np.argsort(sizes, kind="stable")
    assert (np.diff(weights[order]) >= -1e-12).all()


def test_baselines() -> None:
    sizes = [100, 300]
    np.testing.assert_allclose(uniform(sizes), [0.5, 0.5])
    np.testing.assert_allclose(natural(sizes), [0.25, 0.75])
    np.testing.assert_allclose(tempered(sizes, 0.5), [1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5)])
    np.testing.assert_allclose(repetitions(uniform(sizes), sizes, 400), [2, 2 / 3])
    assert entropy(uniform(sizes)) == pytest.approx(np.log(2))
    assert entropy(np.array([1.0, 0.0])) == 0


@pytest.mark.parametrize("sizes", [[], [0], [3, 0]])
def test_an_empty_domain_is_an_error(sizes: list[int]) -> None:
    with pytest.raises(StropError, match="every domain needs some tokens"):
        natural(sizes)


@given(SIZES, st.floats(0, 1), st.floats(0.01, 1), st.data())
def test_no_domain_is_read_too_often(
    sizes: list[int], exponent: float, part: float, data: st.DataObject
) -> None:
    weights = tempered(sizes, exponent)
    if data.draw(st.booleans()):  # some that are not wanted at all
        weights = np.where(np.arange(len(sizes)) % 2, 0, weights)
        weights /= weights.sum()
    budget = part * 4 * sum(sizes)
    found = capped(weights, limits(sizes, budget, 4))
    assert found.sum() == pytest.approx(1)
    assert (repetitions(found, sizes, budget) <= 4 * (1 + 1e-9)).all()
    if (repetitions(weights, sizes, budget) <= 4).all():
        np.testing.assert_array_equal(found, weights)


def test_more_tokens_than_there_are_is_an_error() -> None:
    with pytest.raises(StropError, match="more than 4 times what all domains have"):
        limits([10, 10], 81, 4)
