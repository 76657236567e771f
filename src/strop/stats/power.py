"""How many samples show a difference, and which difference so many samples can show.

By the normal approximation. A difference is shown when the interval at `level` excludes zero; with
probability `power` it is.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from strop.errors import StropError


def detectable(n: int, deviation: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest difference of means that n paired samples show.

    `deviation` is the standard deviation of the differences of a pair. For a win rate it is that of
    a verdict, `verdict_deviation`, and the rate is one half and the difference.
    """
    if n < 1:
        raise StropError(f"no difference can be seen in {n} samples")
    return factors(level, power) * deviation / math.sqrt(n)


def needed(difference: float, deviation: float, level: float = 0.95, power: float = 0.8) -> int:
    """Return how many paired samples show a difference of means; see `detectable`."""
    if not difference:
        raise StropError("no number of samples shows a difference of zero")
    return math.ceil((factors(level, power) * deviation / difference) ** 2)


def verdict_deviation(ties: float = 0.0) -> float:
    """Return the standard deviation of a verdict: 1 a win, 0 a loss, 1/2 a tie, as share of all.

    It is that of equal models. For the difference of two accuracies, a tie is an item on which both
    are right or both wrong, and the difference is twice that of the win rate from one half.
    """
    if not 0.0 <= ties < 1.0:
        raise StropError(f"the share of ties lies between 0 and 1, not {ties}")
    return math.sqrt(1.0 - ties) / 2.0


def needed_verdicts(
    share: float, ties: float = 0.0, level: float = 0.95, power: float = 0.8
) -> int:
    """Return how many verdicts show that wins are a `share` of those that are not ties.

    With the variance of equal models for the test and that of the true share for its power. (Fleiss
    1981, Statistical Methods for Rates and Proportions, section 1.3.)
    """
    if not 0.0 < share < 1.0 or share == 0.5:
        raise StropError(f"a share of wins lies between 0 and 1 and is not one half: {share}")
    verdict_deviation(ties)
    spread = quantile("level", level, sides=2) / 2.0
    spread += quantile("power", power) * math.sqrt(share * (1.0 - share))
    return math.ceil((spread / (share - 0.5)) ** 2 / (1.0 - ties))


def needed_for_width(half: float, proportion: float = 0.5, level: float = 0.95) -> int:
    """Return how many trials give a proportion to within `half` on both sides, by `wilson`."""
    if not 0.0 < half < 0.5:
        raise StropError(f"half of the width of an interval lies between 0 and 0.5, not {half}")
    if not 0.0 <= proportion <= 1.0:
        raise StropError(f"a proportion lies between 0 and 1, not {proportion}")
    z = quantile("level", level, sides=2)
    variance = proportion * (1.0 - proportion)
    # half = z / (1 + z²/n) sqrt(v/n + z²/4n²): a quadratic in z²/n.
    a, b = 0.25 - half**2, variance - 2.0 * half**2
    u = (math.sqrt(max(b * b + 4.0 * a * half**2, 0.0)) - b) / (2.0 * a)
    return math.ceil(z * z / u * (1.0 - 1e-12))


def factors(level: float, power: float) -> float:
    """Return how many standard errors a difference must be."""
    return quantile("level", level, sides=2) + quantile("power", power)


def quantile(name: str, probability: float, sides: int = 1) -> float:
    """Return how many standard errors hold a probability, on one side or on both.

    Raises StropError, which names it, for one that is not between 0 and 1.
    """
    if not 0.0 < probability < 1.0:
        raise StropError(f"the {name} lies between 0 and 1, not {probability}")
    return NormalDist().inv_cdf(1.0 - (1.0 - probability) / sides)
