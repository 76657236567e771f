"""Choices by embeddings, beside plain loops, and where n is small beside the best of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from strop.errors import StropError
from strop.selection.diversity import (
    BLOCK,
    cosines,
    distinct,
    facility_location,
    k_center,
    near_targets,
    unit_rows,
)

Matrix = list[list[float]]

#: few rows of small whole numbers, so that copies, multiples, opposites and ties are common
small = st.integers(1, 3).flatmap(
    lambda d: st.lists(
        st.lists(st.integers(-2, 2), min_size=d, max_size=d).filter(any), min_size=1, max_size=7
    )
)
quick = settings(max_examples=60, deadline=None)


def many(n: int = 5 * BLOCK + 3) -> np.ndarray:
    """Draw clustered rows of several blocks, some of them copies of others."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 5))[rng.integers(0, 9, n)] + rng.normal(size=(n, 5)) / 3
    rows[n // 2 :: 7] = rows[: len(rows[n // 2 :: 7])]
    return rows.astype(np.float32)


def target_cosines(rows: ArrayLike, targets: ArrayLike) -> np.ndarray:
    return cosines(unit_rows(rows), unit_rows(targets))


def all_cosines(rows: Sequence[Sequence[float]] | np.ndarray) -> Matrix:
    return target_cosines(rows, rows).tolist()


@given(small, st.data())
@quick
def test_cosines_are_products_over_lengths(rows: Matrix, data: st.DataObject) -> None:
    targets = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=3))
    found = target_cosines(rows, targets)
    for i, a in enumerate(rows):
        for j, b in enumerate(targets):
            product = math.fsum(x * y for x, y in zip(a, b, strict=True))
            assert found[i, j] == pytest.approx(
                product / (math.hypot(*a) * math.hypot(*b)), abs=1e-7
            )


def test_products_and_sums_do_not_depend_on_their_order_nor_on_the_block() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 300))
    unit = unit_rows(rows)
    assert (unit @ unit.T == unit[:, ::-1] @ unit[:, ::-1].T).all()
    found = target_cosines(rows, rows)
    assert all((found[:, [i]] == target_cosines(rows, rows[[i]])).all() for i in range(20))
    assert found.sum(axis=0).tolist() == [math.fsum(column) for column in found.T]


def test_negative_control_products_of_other_rows_depend_on_it() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 300))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (unit @ unit.T != unit[:, ::-1] @ unit[:, ::-1].T).any()


def test_the_length_of_a_row_does_not_matter() -> None:
    rows = many().astype(np.float64)
    lengths = np.exp2(np.linspace(-900, 900, len(rows)).round())[:, None]
    assert (target_cosines(rows * lengths, rows) == target_cosines(rows, rows)).all()


def plain_k_center(rows: Matrix, count: int, first: int) -> list[int]:
    """Choose the farthest row, again and again."""
    cosine = all_cosines(rows)
    chosen = [first]
    while len(chosen) < count:
        best, lowest = -1, math.inf
        for row in range(len(rows)):
            if row in chosen:
                continue
            nearest = max(cosine[row][one] for one in chosen)
            if nearest < lowest:
                best, lowest = row, nearest
        chosen.append(best)
    return chosen


def radius(rows: Matrix, chosen: Sequence[int]) -> float:
    """Return the largest distance of a unit row to the nearest chosen one."""
    cosine = all_cosines(rows)
    return max(min(math.sqrt(2 - 2 * row[one]) for one in chosen) for row in cosine)


@given(small, st.data())
@quick
def test_k_center_is_the_plain_one_and_at_most_twice_as_far_as_the_best(
    rows: Matrix, data: st.DataObject
) -> None:
    count, first = data.draw(st.integers(1, len(rows))), data.draw(st.integers(0, len(rows) - 1))
    chosen = k_center(rows, count, first).tolist()
    assert chosen == plain_k_center(rows, count, first)
    best = min(radius(rows, some) for some in combinations(range(len(rows)), count))
    assert radius(rows, chosen) <= 2 * best + 1e-3  # near 0 a distance is the root of rounding


def test_k_center_of_many_rows_is_the_plain_one() -> None:
    assert k_center(many(), 25, 3).tolist() == plain_k_center(many().tolist(), 25, 3)


def test_negative_control_the_first_rows_are_more_than_twice_as_far() -> None:
    rows = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    assert radius(rows, [0, 1]) > 10 * radius(rows, k_center(rows, 2, 0).tolist())


def plain_facility_location(rows: Matrix, count: int) -> list[int]:
    """Choose the row that adds most, again and again, looking at every one."""
    cosine = all_cosines(rows)
    chosen: list[int] = []
    for _ in range(count):
        best, highest = -1, -1.0
        for row in range(len(rows)):
            if row in chosen:
                continue
            gain = 0.0
            for other in range(len(rows)):
                covered = max((cosine[other][one] for one in chosen), default=-1.0)
                gain += max(0.0, cosine[other][row] - covered)
            if gain > highest:
                best, highest = row, gain
        chosen.append(best)
    return chosen


def coverage(rows: Matrix, chosen: Sequence[int]) -> float:
    """Return the sum over all rows of the largest similarity to a chosen one."""
    return sum(max((1 + row[one]) / 2 for one in chosen) for row in all_cosines(rows))


@given(small, st.data())
@quick
def test_facility_location_is_the_plain_one_and_near_the_best(
    rows: Matrix, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(rows)))
    chosen = facility_location(rows, count).tolist()
    assert chosen == plain_facility_location(rows, count)
    best = max(coverage(rows, some) for some in combinations(range(len(rows)), count))
    assert coverage(rows, chosen) >= (1 - 1 / math.e) * best


def test_facility_location_of_many_rows_is_the_plain_one() -> None:
    rows = many(3 * BLOCK + 3)
    wanted = plain_facility_location(rows.tolist(), 20)
    assert facility_location(rows, 20).tolist() == wanted
    assert facility_location(rows, len(rows)).tolist()[:20] == wanted
    assert sorted(facility_location(rows, len(rows))) == list(range(len(rows)))


def test_negative_control_rows_by_chance_stand_for_fewer() -> None:
    rows = many().tolist()
    by_chance = [
        coverage(rows, np.random.default_rng(seed).permutation(len(rows))[:9]) for seed in range(20)
    ]
    assert coverage(rows, facility_location(rows, 9).tolist()) > max(by_chance)


def plain_distinct(rows: Matrix, order: Sequence[int], most: float) -> tuple[object, object]:
    """Keep what is unlike all that is kept."""
    cosine = all_cosines(rows)
    kept: list[int] = []
    like: dict[int, int] = {}
    for row in order:
        nearest = max(kept, key=cosine[row].__getitem__, default=None)  # the first of equals
        if nearest is None or cosine[row][nearest] <= most:
            kept.append(row)
        else:
            like[row] = nearest
    return kept, like


@given(small, st.data())
@quick
def test_distinct_is_the_plain_one(rows: Matrix, data: st.DataObject) -> None:
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True))
    most = data.draw(st.floats(-1, 1))
    kept, like = distinct(rows, order, most)
    assert (kept.tolist(), like) == plain_distinct(rows, order, most)


@pytest.mark.parametrize("most", [-0.5, 0.5, 0.9, 0.99])
def test_no_two_are_like_and_each_dropped_one_is_like_an_earlier_one(most: float) -> None:
    rows = many()
    order = np.random.default_rng(1).permutation(len(rows))
    kept, like = distinct(rows, order, most)
    assert (kept.tolist(), like) == plain_distinct(rows.tolist(), order.tolist(), most)
    assert sorted([*kept, *like]) == list(range(len(rows)))
    between = target_cosines(rows[kept], rows[kept])
    assert (between[~np.eye(len(kept), dtype=bool)] <= most).all()
    rank = {int(row): place for place, row in enumerate(order)}
    assert like
    for row, twin in like.items():
        assert twin in kept
        assert rank[twin] < rank[row]
        assert target_cosines(rows[[row]], rows[[twin]])[0, 0] > most


def test_distinct_keeps_the_first_of_copies_and_all_if_anything_may_be_kept() -> None:
    rows = [[1.0, 2.0], [3.0, 1.0], [2.0, 4.0], [1.0, 2.0]]
    kept, like = distinct(rows, [3, 1, 0, 2], 0.999)
    assert (kept.tolist(), like) == ([3, 1], {0: 3, 2: 3})
    kept, like = distinct(rows, [3, 1, 0, 2], 1.0)
    assert (kept.tolist(), like) == ([3, 1, 0, 2], {})


def test_near_targets_is_the_largest_cosine() -> None:
    rows, targets = many(), many()[::40]
    found = target_cosines(rows, targets).tolist()
    assert near_targets(rows, targets).tolist() == [max(one) for one in found]


FINE = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
ZERO = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
NAN = [[1.0, 0.0], [0.0, 1.0], [1.0, math.nan]]


@pytest.mark.parametrize(
    "choose",
    [
        lambda rows: k_center(rows, 1, 0),
        lambda rows: facility_location(rows, 1),
        lambda rows: distinct(rows, [0], 0.9),
        lambda rows: near_targets(rows, FINE),
    ],
)
def test_rows_without_direction_are_named(choose: Callable[[Matrix], object]) -> None:
    with pytest.raises(StropError, match="row 1 of the embeddings is zero"):
        choose(ZERO)
    with pytest.raises(StropError, match="row 2 of the embeddings holds NaN"):
        choose(NAN)
    with pytest.raises(StropError, match="embeddings have shape"):
        choose([])


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda: k_center(FINE, 4, 0), "cannot choose 4 of 3 rows"),
        (lambda: k_center(FINE, 0, 0), "cannot choose 0 of 3 rows"),
        (lambda: k_center(FINE, 1, 3), "the first row is 3"),
        (lambda: facility_location(FINE, 4), "cannot choose 4 of 3 rows"),
        (lambda: distinct(FINE, [0, -1], 0.9), "names row -1"),
        (lambda: distinct(FINE, [2, 0, 2], 0.9), "names row 2 twice"),
        (lambda: distinct(FINE, [0], math.nan), "between -1 and 1, not nan"),
        (lambda: near_targets(FINE, ZERO), "row 1 of the targets is zero"),
        (lambda: near_targets(FINE, [[1.0]]), "2 dimensions and targets 1"),
    ],
)
def test_what_cannot_be_chosen_is_said(choose: Callable[[], object], message: str) -> None:
    with pytest.raises(StropError, match=message):
        choose()
