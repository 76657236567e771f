"""Intervals for what was measured, and words for what they show."""

from strop.stats.interval import Interval, Verdict, verdict
from strop.stats.proportion import wilson
from strop.stats.resampling import bootstrap, mean, paired_difference, ratio
from strop.stats.student import student

__all__ = [
    "Interval",
    "Verdict",
    "bootstrap",
    "mean",
    "paired_difference",
    "ratio",
    "student",
    "verdict",
    "wilson",
]
