"""How many examples are enough: curves that are known, and studies that are simulated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from strop.errors import StropError
from strop.selection.curve import (
    EXPONENTS,
    MOST_SEEDS,
    Enough,
    Run,
    drawn_means,
    enough,
    fitted,
    found_deviation,
    predicted,
    seeds_to_tell,
    standard_error,
)
from strop.stats import Interval

SIZES = (100, 200, 400, 800, 1600, 3200)
RESAMPLES = 400
Loss = Callable[[float], float]
Random = np.random.Generator


def power(exponent: float, floor: float = 1.5) -> Loss:
    """A curve that falls by 1 from the smallest size to the largest."""
    scale = 1.0 / (SIZES[0] ** -exponent - SIZES[-1] ** -exponent)
    return lambda size: floor + scale * size**-exponent


def flat(size: float) -> float:
    return 2.0


def used_up(size: float) -> float:
    """More than 800 examples have nothing new in them."""
    return 1.0 + 200.0 / min(size, 800.0)


def steps(size: float) -> float:
    return 3.0 if size <= 200 else 1.0


def study(curve: Loss, seeds: int, noise: float, rng: Random, nested: bool = False) -> list[Run]:
    """Half of the variance is that of a seed, at all its sizes; the rest may be of nested sums."""
    apart = np.abs(np.subtract.outer(range(len(SIZES)), range(len(SIZES))))  # in doublings
    together = np.linalg.cholesky(0.5 ** (apart / 2.0) if nested else np.eye(len(SIZES)))
    own = rng.normal(0.0, noise, (seeds, len(SIZES))) @ together.T
    off = own + rng.normal(0.0, noise, (seeds, 1))
    return [
        Run(size, seed, curve(size) + float(off[seed, column]))
        for seed in range(seeds)
        for column, size in enumerate(SIZES)
    ]


def exact(curve: Loss, seeds: int = 3) -> list[Run]:
    return study(curve, seeds, 0.0, np.random.default_rng(0))


def size_of(found: Enough) -> Interval:
    assert found.size is not None
    return found.size


def truth(curve: Loss, untrained: float | None = None, share: float = 0.95) -> float:
    """Halve the range until the loss is the one wanted."""
    start, end = untrained or curve(SIZES[0]), curve(SIZES[-1])
    low, high = float(SIZES[0]), float(SIZES[-1])
    for _ in range(60):
        middle = (low + high) / 2.0
        if curve(middle) > start - share * (start - end):
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize("exponent", [0.06, 0.3, 0.5, 1.0, 2.9])
@pytest.mark.parametrize("floor", [-2.0, 0.0, 1.5])
def test_exact_curves_are_recovered(exponent: float, floor: float) -> None:
    curve = power(exponent, floor)
    shares = np.array(SIZES) / SIZES[-1]
    losses = np.array([[curve(size) for size in SIZES]])
    fits = fitted(shares, losses)
    floors, scales, exponents = fits
    assert exponents[0] == pytest.approx(exponent, rel=1e-5)
    assert floors[0] == pytest.approx(floor, abs=1e-4)
    assert scales[0] == pytest.approx(curve(SIZES[-1]) - floor, abs=1e-4)
    assert predicted(fits, shares) == pytest.approx(losses, abs=1e-6)


def test_fits_are_as_good_as_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    shares = np.array(SIZES) / SIZES[-1]
    losses = np.array([power(b)(100.0 / shares[0] * shares) for b in (0.2, 1.0, 2.0)] * 5)
    losses += rng.normal(0.0, 0.1, losses.shape)
    losses[-1] = losses[-1, ::-1]  # rises
    floors, scales, exponents = fitted(shares, losses)
    off = losses - floors[:, None] - scales[:, None] * shares ** -exponents[:, None]
    assert (scales >= 0.0).all()
    assert scales[-1] == 0.0
    for row, errors in zip(losses, (off**2).sum(axis=1), strict=True):
        assert errors <= plain_search(shares, row) * (1.0 + 1e-7)


def plain_search(shares: np.ndarray, losses: np.ndarray) -> float:
    """Return the least squared error of many exponents; without a fall, that of the mean."""
    least = float(((losses - losses.mean()) ** 2).sum())
    for exponent in np.geomspace(EXPONENTS[0], EXPONENTS[-1], 300):
        columns = np.stack([np.ones_like(shares), shares**-exponent], axis=1)
        (floor, scale), *_ = np.linalg.lstsq(columns, losses, rcond=None)
        if scale >= 0.0:
            off = losses - columns @ [floor, scale]
            least = min(least, float((off**2).sum()))
    return least


@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("untrained", [None, 4.0])
@pytest.mark.parametrize("share", [0.8, 0.95])
def test_without_noise_the_size_is_exact(
    exponent: float, untrained: float | None, share: float
) -> None:
    curve = power(exponent)
    found = enough(exact(curve), untrained, share, resamples=10)
    assert found.verdict == "enough"
    assert size_of(found).estimate == pytest.approx(truth(curve, untrained, share), rel=1e-4)
    assert found.gain is not None
    assert found.gain.estimate == pytest.approx(1.0 if untrained is None else 4.0 - curve(3200))
    assert found.slope is not None
    assert found.slope.estimate == pytest.approx(slope_of(curve), rel=1e-4)


def test_what_still_falls_is_said_with_its_slope() -> None:
    slow, fast = (enough(exact(power(b)), resamples=10) for b in (0.3, 2.0))
    assert size_of(slow).estimate > 1600
    assert f"more would still help: per doubling the loss falls by {slow.slope}" in slow.reason
    assert size_of(fast).estimate < 1600
    assert "more" not in fast.reason


def test_where_no_more_is_to_be_had_is_found() -> None:
    found = enough(study(used_up, 5, 0.01, np.random.default_rng(0)))
    assert found.verdict == "enough"
    assert 800 / 1.5 < size_of(found).estimate < 800 * 1.5


def test_the_smallest_size_may_be_enough() -> None:
    found = enough(study(flat, 5, 0.01, np.random.default_rng(0)), untrained=4.0)
    assert found.verdict == "enough"
    assert size_of(found).estimate == pytest.approx(100)
    assert "the smallest size, or with fewer" in found.reason


def test_losses_that_follow_no_curve_are_not_read_by_one() -> None:
    found = enough(study(steps, 5, 0.02, np.random.default_rng(0)))
    assert (found.verdict, found.size, found.more_seeds) == ("cannot tell", None, None)
    assert "no falling curve fits" in found.reason


@pytest.mark.parametrize(("seeds", "exponent", "untrained"), [(3, 0.5, None), (5, 0.8, 3.0)])
@pytest.mark.parametrize("nested", [False, True])
def test_intervals_hold_the_truth(
    seeds: int, exponent: float, untrained: float | None, nested: bool
) -> None:
    curve = power(exponent)
    found = covered(curve, untrained, lambda rng: study(curve, seeds, 0.1, rng, nested), 1000)
    assert all(0.93 <= share <= 0.97 for share in found)


def test_few_studies_say_enough_and_miss() -> None:
    """With much noise few say it, by lucky seeds, so of these more than 5% miss."""
    rng, curve = np.random.default_rng(0), power(1.0)
    size = truth(curve, 4.0)
    studies = [enough(study(curve, 3, 0.3, rng), 4.0, resamples=RESAMPLES) for _ in range(300)]
    told = [one for one in studies if one.verdict == "enough"]
    assert 0 < len(told) < 0.3 * len(studies)
    assert sum(size_of(one).excludes(size) for one in told) <= 0.08 * len(studies)


def test_negative_control_copies_of_seeds_are_not_seeds() -> None:
    def copied(rng: Random) -> list[Run]:
        runs = study(power(1.0), 3, 0.02, rng)
        return [replace(run, seed=run.seed + 3 * copy) for run in runs for copy in range(4)]

    assert all(share < 0.8 for share in covered(power(1.0), None, copied, 250))


def covered(
    curve: Loss, untrained: float | None, make: Callable[[Random], list[Run]], studies: int
) -> tuple[float, float]:
    """Return in which shares of simulated studies the intervals of size and slope hold the truth.

    Of those that have intervals: the others say that nothing was learned.
    """
    rng = np.random.default_rng(0)
    size, slope = truth(curve, untrained), slope_of(curve)
    held = []
    for draws in range(studies):  # of their own: what all share is off by the same
        found = enough(make(rng), untrained, resamples=1000, seed=draws)
        if found.size and found.slope:
            held.append([not found.size.excludes(size), not found.slope.excludes(slope)])
    assert len(held) > 0.9 * studies
    first, second = np.mean(held, axis=0)
    return float(first), float(second)


def slope_of(curve: Loss) -> float:
    """Return by how much a loss falls per doubling, at the largest size."""
    step = 1e-4  # of a doubling
    return (curve(SIZES[-1] * 2**-step) - curve(SIZES[-1] * 2**step)) / (2 * step)


@pytest.mark.parametrize(("seeds", "untrained"), [(3, None), (5, None), (5, 2.0)])
def test_negative_control_noise_is_no_gain(seeds: int, untrained: float | None) -> None:
    rng = np.random.default_rng(seeds)
    studies = [study(flat, seeds, 0.1, rng) for _ in range(100)]
    found = [enough(runs, untrained, resamples=RESAMPLES) for runs in studies]
    assert sum(one.verdict == "cannot tell" for one in found) >= 93
    assert sum("nothing measurable was learned" in one.reason for one in found) >= 93


def test_more_seeds_tell_as_often_as_not() -> None:
    rng = np.random.default_rng(0)
    told = []
    for _ in range(60):
        runs = study(power(1.0), 3, 0.15, rng)
        found = enough(runs, resamples=RESAMPLES)
        if found.verdict == "cannot tell" and found.more_seeds:
            more = study(power(1.0), found.more_seeds, 0.15, rng)
            runs += [replace(run, seed=run.seed + 3) for run in more]
            told.append(enough(runs, resamples=RESAMPLES).verdict == "enough")
    assert len(told) >= 20
    assert np.mean(told) >= 0.5


@pytest.mark.parametrize(("seeds", "width", "error"), [(3, 6.0, 0.1), (5, 4.0, 0.1), (4, 1.0, 1.5)])
def test_widths_shrink_with_the_root_of_the_seeds(seeds: int, width: float, error: float) -> None:
    def half(count: int) -> float:
        return found_deviation(count) * float(scipy_stats.t.ppf(0.975, count - 1)) / count**0.5

    of_mean = width / (2 * float(scipy_stats.t.ppf(0.975, seeds - 1)))
    found = seeds_to_tell(of_mean, 1.7, Interval(1, 0, 1 + error, seeds))
    assert found is not None
    too_wide = max(width / 1.7, error)
    assert half(seeds + found) / half(seeds) * too_wide < 1.0
    assert half(seeds + found - 1) / half(seeds) * too_wide >= 1.0


@pytest.mark.parametrize("count", [2, 3, 4, 8, 32])
def test_the_deviation_of_few_is_more_often_too_small(count: int) -> None:
    exact = math.sqrt(scipy_stats.chi2.median(count - 1) / (count - 1))
    assert found_deviation(count) == pytest.approx(exact, rel=0.02)


def test_the_standard_error_is_that_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(0.0, 2.0, (5, 1))
    found = standard_error(drawn_means(losses, 100_000, 0)[:, 0], 5)
    assert found == pytest.approx(losses.std(ddof=1) / math.sqrt(5), rel=0.02)


def test_no_number_of_seeds_shows_what_is_not_there() -> None:
    found = enough(exact(flat), resamples=10)
    assert (found.verdict, found.size, found.more_seeds) == ("cannot tell", None, None)
    assert seeds_to_tell(0.2, 2.5, Interval(-0.1, -0.2, 0, 3)) is None
    assert seeds_to_tell(0.2, 2.5, Interval(0.01, -9, 9, 3)) is None
    assert seeds_to_tell(9, 1, Interval(1, 0.9, 1.1, MOST_SEEDS)) is None


def test_too_few_runs_are_named() -> None:
    runs = exact(power(1.0), seeds=4)
    assert "0 sizes" in enough([]).reason
    assert "2 sizes" in enough([run for run in runs if run.size <= 200]).reason
    two = enough([run for run in runs if run.seed < 2])
    assert two.reason.startswith("2 seeds were run")
    assert two.more_seeds == 1
    missing = enough([run for run in runs if (run.size, run.seed) != (400, 2)])
    assert missing.reason.startswith("seed 2 was not run at size 400")
    assert missing.verdict == two.verdict == "cannot tell"


LOSSES = st.floats(-1e100, 1e100) | st.floats(0.0, 5.0) | st.sampled_from([1.0, 2.0])


@st.composite
def studies(draw: st.DrawFn) -> list[Run]:
    """Any sizes and seeds, often all of them together."""
    sizes = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=6, unique=True))
    seeds = draw(st.lists(st.integers(-5, 10**9), min_size=1, max_size=5, unique=True))
    runs = [Run(size, seed, draw(LOSSES)) for seed in seeds for size in sizes]
    return runs[draw(st.sampled_from([0, 0, 0, 1, 2])) :]


@settings(max_examples=150, deadline=None)
@given(studies(), st.none() | LOSSES, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_any_runs_have_an_answer_in_any_order(
    runs: list[Run], untrained: float | None, share: float, random: Random
) -> None:
    found = enough(runs, untrained, share, resamples=20)
    shuffled = list(runs)
    random.shuffle(shuffled)
    assert enough(shuffled, untrained, share, resamples=20) == found
    if found.size:
        smallest, largest = (end(run.size for run in runs) for end in (min, max))
        ends = (smallest, found.size.low, found.size.estimate, found.size.high, largest)
        assert all(a <= b * (1.0 + 1e-9) for a, b in pairwise(ends))
    if found.verdict == "enough":
        assert found.size
        assert found.gain
        assert found.gain.low > 0.0
        assert found.more_seeds is None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_names_its_run(loss: float) -> None:
    with pytest.raises(StropError, match=f"size 400 with seed 7 has loss {loss}"):
        Run(400, 7, loss)


def test_what_cannot_be_is_said() -> None:
    runs = exact(power(1.0))
    with pytest.raises(StropError, match="size 0"):
        Run(0, 1, 2.0)
    with pytest.raises(StropError, match="two runs have size 100 and seed 1"):
        enough([*runs, Run(100, 1, 2.0)])
    with pytest.raises(StropError, match="share lies between"):
        enough(runs, share=1.0)
    with pytest.raises(StropError, match="level lies between"):
        enough(runs, level=95)
    with pytest.raises(StropError, match="before training is nan"):
        enough(runs, untrained=math.nan)
