"""Intervals for what was measured, tests, sample sizes, and words for what they show."""

from strop.stats.bradley_terry import bradley_terry
from strop.stats.interval import (
    Interval,
    Verdict,
    spelled_difference,
    spelled_figure,
    verdict,
)
from strop.stats.power import (
    detectable,
    needed,
    needed_for_width,
    needed_verdicts,
    verdict_deviation,
)
from strop.stats.proportion import paired_proportions, wilson
from strop.stats.resampling import bootstrap, mean, paired_difference, ratio
from strop.stats.runs import run_difference
from strop.stats.significance import (
    holm,
    mcnemar,
    permutation_test,
    sign_test,
    spelled_p,
)
from strop.stats.student import student
from strop.stats.winrate import against_half, length_controlled, net_win_rate

__all__ = [
    "Interval",
    "Verdict",
    "against_half",
    "bootstrap",
    "bradley_terry",
    "detectable",
    "holm",
    "length_controlled",
    "mcnemar",
    "mean",
    "needed",
    "needed_for_width",
    "needed_verdicts",
    "net_win_rate",
    "paired_difference",
    "paired_proportions",
    "permutation_test",
    "ratio",
    "run_difference",
    "sign_test",
    "spelled_difference",
    "spelled_figure",
    "spelled_p",
    "student",
    "verdict",
    "verdict_deviation",
    "wilson",
]
