"""How many training examples are enough, by the held-out losses of runs on nested subsets.

A power law that ends in a floor is fitted to the losses, L(n) = E + A n^-b (Hestness et al. 2017,
arXiv 1712.00409), and is read between the smallest and the largest size only. The intervals are
over seeds, which are independent; the subsets of one seed lie in each other, so their losses are
not. They hold for the examples that the subsets were taken from, and as far as the losses follow
such a curve: where they stop short instead of levelling out, the size found is too large.

The intervals are those of a bootstrap that does not draw seeds: no mean of three seeds lies outside
the three. It draws means around that of the seeds, as a multivariate Student's t with n - 1 degrees
of freedom whose covariance is theirs, so the losses of a seed may go together in any way, and vary
more at one size than at another. "Enough" is only said of a narrow interval, and with few seeds
some are narrow by luck: of the studies that say it fewer are right. What both are worth is measured
in benchmarks/how_many.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError
from strop.stats import Interval, student
from strop.stats.student import student_quantile

Floats = NDArray[np.float64]
Fits = tuple[Floats, Floats, Floats]  #: floors, scales and exponents of some curves, (rows,) each

LEAST_SIZES = 3  #: a curve has three parameters
LEAST_SEEDS = 3  #: for an interval
MOST_SEEDS = 32  #: in all, that are ever asked for
EXPONENTS = np.geomspace(0.05, 3.0, 41)  #: from nearly a logarithm to a fall within one doubling
STEPS = 30  #: of the golden section, after which an exponent is known to 1e-7 of itself
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
WIDEST = 0.5  #: of the measured range that the interval of a size may span, in logarithms


@dataclass(frozen=True)
class Run:
    """A training run on a subset of the examples; the subsets of one seed are nested."""

    size: int  #: number of training examples
    seed: int  #: of the subset and of the training
    loss: float  #: after training, on held-out examples

    def __post_init__(self) -> None:
        """Raise StropError for what no curve can be fitted to."""
        if self.size < 1:
            raise StropError(f"a run with seed {self.seed} has size {self.size}: it must be over 0")
        if not math.isfinite(self.loss):
            raise StropError(
                f"the run of size {self.size} with seed {self.seed} has loss {self.loss}: "
                "run it again, or leave its seed out"
            )


@dataclass(frozen=True)
class Enough:
    """How many examples are enough; what cannot be known is None."""

    verdict: Literal["enough", "cannot tell"]
    reason: str  #: in a sentence
    size: Interval | None = None  #: number of examples that give the share of the gain
    gain: Interval | None = None  #: by which the largest size made the loss lower
    slope: Interval | None = None  #: by which the loss falls per doubling, at the largest size
    more_seeds: int | None = None  #: that are expected to tell; None where seeds would not


def enough(
    runs: Iterable[Run],
    untrained: float | None = None,
    share: float = 0.95,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Enough:
    """Find how many examples give a share of the gain, with a bootstrap interval over seeds.

    The gain is what the largest size takes off the loss of the smallest or, where it is given, off
    `untrained`, the loss before training. Nothing is guessed beyond the largest size, but if the
    share is reached only after the size before it, the reason says that more would help. One cannot
    tell with fewer than three sizes or seeds or without one of the runs, if the gain is not
    significant, if the interval spans half of the measured range, and if the losses are off the
    curve by more than the rest of the gain. Raises StropError for two runs of one size and seed,
    and for settings out of range.
    """
    for name, value in (("share", share), ("level", level)):
        if not 0.0 < value < 1.0:
            raise StropError(f"the {name} lies between 0 and 1, not {value}")
    if untrained is not None and not math.isfinite(untrained):
        raise StropError(f"the loss before training is {untrained}: measure it, or leave it out")
    sizes, seeds, losses = tabulated(runs)
    lacking = what_lacks(sizes, seeds, losses)
    if lacking:
        return lacking

    count, smallest, largest = len(seeds), sizes[0], sizes[-1]
    shares = np.array([size / largest for size in sizes])
    means = drawn_means(losses, resamples, seed)
    fits = fitted(shares, means)
    gain = student((losses[:, 0] if untrained is None else untrained) - losses[:, -1], level)
    slope = percentiles(fits[1] * fits[2] * math.log(2.0), count, level)
    reached = log_reached(fits, shares[0], untrained, share)
    size = within(percentiles(reached, count, level), smallest, largest)

    limit = (largest / smallest) ** WIDEST
    more = seeds_to_tell(standard_error(reached, count), math.log(limit), gain)
    if gain.low <= 0.0:
        start = "no training" if untrained is not None else f"{smallest:,}"
        reason = f"nothing measurable was learned: the gain from {start} to {largest:,} is {gain}"
        return Enough("cannot tell", reason, gain=gain, more_seeds=more)
    reason = f"{100.0 * share:.4g}% of the gain is reached with {size:,.0f} examples"
    if size.high >= limit * size.low:
        reason += f", but the interval must span less than a factor of {limit:.3g}"
        return Enough("cannot tell", reason, size, gain, slope, more)
    for at, residuals in zip(sizes, (means - predicted(fits, shares)).T, strict=True):
        off = percentiles(residuals, count, level)
        if max(off.low, -off.high) > (1.0 - share) * gain.estimate:
            reason = f"no falling curve fits: at size {at:,} the losses are off by {off}"
            return Enough("cannot tell", reason, gain=gain)
    if size.estimate > sizes[-2]:
        reason += f", and more would still help: per doubling the loss falls by {slope}"
    elif math.isclose(size.estimate, smallest):
        reason += ", the smallest size, or with fewer"
    return Enough("enough", reason, size, gain, slope)


def tabulated(runs: Iterable[Run]) -> tuple[list[int], list[int], Floats]:
    """Return the sizes, the seeds and the losses (seeds, sizes), NaN where there is no run."""
    losses: dict[tuple[int, int], float] = {}
    for run in runs:
        if (run.seed, run.size) in losses:
            raise StropError(f"two runs have size {run.size} and seed {run.seed}: leave one out")
        losses[run.seed, run.size] = run.loss
    sizes, seeds = sorted({size for _, size in losses}), sorted({seed for seed, _ in losses})
    rows = [[losses.get((seed, size), math.nan) for size in sizes] for seed in seeds]
    return sizes, seeds, np.array(rows)


def what_lacks(sizes: Sequence[int], seeds: Sequence[int], losses: Floats) -> Enough | None:
    """Return why nothing can be told of the runs that there are, if so."""
    if len(sizes) < LEAST_SIZES:
        return Enough("cannot tell", f"{len(sizes)} sizes were run, and it takes {LEAST_SIZES}")
    if len(seeds) < LEAST_SEEDS:
        reason = f"{len(seeds)} seeds were run, and it takes at least {LEAST_SEEDS}"
        return Enough("cannot tell", reason, more_seeds=LEAST_SEEDS - len(seeds))
    if np.isnan(losses).any():
        row, column = np.argwhere(np.isnan(losses))[0]
        reason = (
            f"seed {seeds[row]} was not run at size {sizes[column]}: run it, or leave the seed out"
        )
        return Enough("cannot tell", reason)
    return None


def drawn_means(losses: Floats, resamples: int, seed: int) -> Floats:
    """Return the mean losses (1 + resamples, sizes) of the seeds, and means drawn around them."""
    count, rng = len(losses), np.random.default_rng(seed)
    normal = rng.normal(size=(resamples, count))
    weights = (normal - normal.mean(axis=1, keepdims=True)) / math.sqrt(count * (count - 1))
    weights *= np.sqrt((count - 1) / rng.chisquare(count - 1, (resamples, 1)))
    means: Floats = losses.mean(axis=0) + np.concatenate([np.zeros((1, count)), weights]) @ losses
    return means


def fitted(shares: Floats, losses: Floats) -> Fits:
    """Fit a curve over sizes, as shares (n,) of the largest, to each row of losses (rows, n).

    For a given exponent the rest is linear. The best of a grid is refined by the golden section.
    """
    grid = np.stack([linear(shares, losses, np.full(1, one))[2] for one in EXPONENTS])
    best = grid.argmin(axis=0)
    low = np.log(EXPONENTS[np.maximum(best - 1, 0)])
    high = np.log(EXPONENTS[np.minimum(best + 1, len(EXPONENTS) - 1)])
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = (linear(shares, losses, np.exp(logs))[2] for logs in (left, right))
    for _ in range(STEPS):
        fell = at_left < at_right
        low, high = np.where(fell, low, left), np.where(fell, right, high)
        probe = np.where(fell, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_probe = linear(shares, losses, np.exp(probe))[2]
        left, right = np.where(fell, probe, right), np.where(fell, left, probe)
        at_left, at_right = np.where(fell, at_probe, at_right), np.where(fell, at_left, at_probe)
    exponents = np.exp((low + high) / 2.0)
    floors, scales, _ = linear(shares, losses, exponents)
    return floors, scales, exponents


def linear(shares: Floats, losses: Floats, exponents: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the floors and scales that fit best for given exponents, and the squared errors."""
    x = shares ** -exponents[:, None]
    from_x = x - x.mean(axis=1, keepdims=True)
    from_y = losses - losses.mean(axis=1, keepdims=True)
    scales = np.maximum((from_x * from_y).sum(axis=1) / (from_x**2).sum(axis=1), 0.0)
    floors = losses.mean(axis=1) - scales * x.mean(axis=1)
    return floors, scales, ((from_y - scales[:, None] * from_x) ** 2).sum(axis=1)


def predicted(fits: Fits, shares: Floats) -> Floats:
    """Return the losses (rows, n) of curves at shares (n,) of the largest size."""
    floors, scales, exponents = (found[:, None] for found in fits)
    return floors + scales * shares**-exponents


def log_reached(fits: Fits, smallest: float, untrained: float | None, share: float) -> Floats:
    """Return the logarithms of the shares of the largest size that give a share of the gain.

    A flat curve gives all that it gives with the smallest size.
    """
    floors, scales, exponents = fits
    most = smallest**-exponents
    gains = scales * (most - 1.0) if untrained is None else untrained - floors - scales
    in_scales = np.divide(gains, scales, out=np.full_like(gains, np.inf), where=scales > 0.0)
    powers = np.clip(1.0 + (1.0 - share) * in_scales, 1.0, most)
    found: Floats = -np.log(powers) / exponents
    return found


def percentiles(replicates: Floats, count: int, level: float) -> Interval:
    """Return the percentile interval of replicates, of which the first is the estimate."""
    tail = (1.0 - level) / 2.0
    low, high = (float(end) for end in np.quantile(replicates[1:], [tail, 1.0 - tail]))
    estimate = float(replicates[0])
    return Interval(estimate, min(low, estimate), max(high, estimate), count, level)


def within(logs: Interval, smallest: int, largest: int) -> Interval:
    """Return an interval of logarithms of shares of the largest size as one of measured sizes."""
    ends = np.exp(np.clip([logs.estimate, logs.low, logs.high], math.log(smallest / largest), 0.0))
    middle, low, high = (float(end) for end in largest * ends)
    return Interval(middle, low, high, logs.n, logs.level)


def standard_error(replicates: Floats, count: int) -> float:
    """Return the standard error of a number by its replicates.

    The larger one of that by their middle half and that by nearly all of them: they end where the
    measured range does, so their tails may be cut off, or their middle be all at one end.
    """
    tails = (0.25, 0.025)
    widths = [np.subtract(*np.quantile(replicates[1:], [1.0 - tail, tail])) for tail in tails]
    return max(
        float(width) / (2.0 * student_quantile(1.0 - tail, count - 1))
        for width, tail in zip(widths, tails, strict=True)
    )


def seeds_to_tell(error: float, limit: float, gain: Interval) -> int | None:
    """Return how many more seeds make an interval as narrow as the limit, and the gain significant.

    `error` is the standard error of what the interval is of, with the seeds of the gain.
    """
    now = half_width(gain.n, gain.level)
    deviations = error * math.sqrt(gain.n) / found_deviation(gain.n)
    for count in range(gain.n + 1, MOST_SEEDS + 1):
        then = half_width(count, gain.level)
        narrow = 2.0 * then * deviations < limit
        if narrow and then / now * (gain.high - gain.estimate) < gain.estimate:
            return count - gain.n
    return None


def half_width(count: int, level: float) -> float:
    """Return the median of that of a mean's interval by Student's t, in true deviations."""
    quantile = student_quantile((1.0 + level) / 2.0, count - 1)
    return found_deviation(count) * quantile / math.sqrt(count)


def found_deviation(count: int) -> float:
    """Return the median of the deviation that so many samples show, in true ones.

    (Wilson and Hilferty 1931, "The distribution of chi-square".)
    """
    return float((1.0 - 2.0 / (9.0 * (count - 1))) ** 1.5)
