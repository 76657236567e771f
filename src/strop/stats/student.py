"""Student's t: intervals of the mean of a few samples, as of training runs with several seeds.

They hold for samples that are normal, however few; a bootstrap of three has nothing to draw from.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from strop.errors import StropError
from strop.stats.interval import Interval


def student(samples: ArrayLike, level: float = 0.95) -> Interval:
    """Estimate the mean of independent, normal samples (n,).

    Raises StropError for fewer than two, and for ones that are not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise StropError(f"an interval needs at least 2 samples, not {values.size}")
    if not np.isfinite(values).all():
        raise StropError("an interval needs finite samples: found NaN or infinity")
    n = len(values)
    half = student_quantile((1 + level) / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half, n, level)


def student_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t.

    Exact for one and two degrees of freedom, then by its expansion in 1 / freedom, Abramowitz &
    Stegun 26.7.5: at 95% within 1% from three degrees of freedom on.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / float(freedom) ** power for power, term in enumerate(terms))


def student_within(t: float, freedom: int) -> float:
    """Return the probability that Student's t is at most |t| away from 0.

    (Abramowitz & Stegun 26.7.3 and 26.7.4.)
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    cosine = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * (power + 1) / (power + 2)
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
