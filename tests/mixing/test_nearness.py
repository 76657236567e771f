"""How near texts are to each other by their pairs of tokens."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from strop.mixing.nearness import coefficient, frequencies


def plain(first: list[int], second: list[int]) -> float:
    """Return the coefficient, slowly."""
    a, b = (Counter(itertools.pairwise(one)) for one in (first, second))
    return sum(
        ((a[pair] / a.total()) * (b[pair] / b.total())) ** 0.5 for pair in a.keys() & b.keys()
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_coefficient_is_that_of_a_plain_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 70_000, 30), random.integers(0, 6, 400)
    first = np.concatenate([first, second[:50]]).astype(np.uint32)
    found = coefficient(frequencies(first), frequencies(second.astype(np.uint16)))
    assert found == pytest.approx(plain(first.tolist(), second.tolist()))
    assert 0 < found < 1


def test_equal_texts_are_nearest_and_others_far() -> None:
    text = np.arange(50, dtype=np.uint16) % 7
    assert coefficient(frequencies(text), frequencies(text)) == pytest.approx(1)
    assert coefficient(frequencies(text), frequencies(text + 7)) == 0
    # The same tokens in another order are other pairs.
    assert coefficient(frequencies(text), frequencies(text[::-1].copy())) == 0
