"""Figures of a task from its samples: of one model, or of two on the same rows, and what they show.

Each has an interval, and a difference of two models a p-value. A word of what a difference shows
has only the first figure of a task: it is chosen before anyone looks, and its p-value is corrected
for all tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strop.evaluation.samples import Sample
from strop.stats import (
    Interval,
    bootstrap,
    holm,
    mcnemar,
    paired_difference,
    paired_proportions,
    permutation_test,
    ratio,
    verdict,
    wilson,
)

LEAST = 2  #: rows for an interval
SHOWN = 3  #: reasons why there are no figures


def figures(names: Sequence[str], every: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Return figures of one model, or of two and their differences, on rows that all answered.

    Of fewer than two such rows there are none.
    """
    answered = [row for row in zip(*every, strict=True) if not any("failed" in one for one in row)]
    if len(answered) < LEAST:
        return {}
    found: dict[str, Any] = {}
    for name in names:
        ours, *others = np.array([[one[name] for one in row] for row in answered]).swapaxes(0, 1)
        found[name] = {
            "model": estimate(ours).to_json(),
            "stderr": [standard_error(one) for one in (ours, *others)],
        }
        for theirs in others:
            found[name] |= {"against": estimate(theirs).to_json(), **compared(ours, theirs)}
    return found


def unmeasured(rows: int, failed: Sequence[Mapping[str, int]]) -> str:
    """Say why a task has no figures, with the commonest failures of its rows."""
    reasons = sum(map(Counter, failed), Counter[str]())
    said = ", ".join(f"{count} x {why}" for why, count in reasons.most_common(SHOWN))
    return f"too few of {rows} rows were answered; failures: {said or 'none'}"


def estimate(values: Any) -> Interval:
    """Return the mean of a figure, or all sums over all counts: a proportion, if it is 0 or 1."""
    if values.ndim == 2:
        return bootstrap(values, ratio)
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    return wilson(int(values.sum()), len(values)) if binary else bootstrap(values)


def standard_error(values: Any) -> float:
    """Return that of a mean, or of all sums over all counts by the delta method.

    Of a proportion it is sqrt(p (1 - p) / (n - 1)). (Cochran 1977, Sampling Techniques, section
    2.11.)
    """
    sums, counts = values.T if values.ndim == 2 else (values, np.ones(len(values)))
    off = sums - sums.sum() / counts.sum() * counts
    return float(np.sqrt(len(off) / (len(off) - 1) * (off**2).sum()) / counts.sum())


def compared(ours: Any, theirs: Any) -> dict[str, Any]:
    """Return the difference of two models on the same rows, and its p-value.

    Sums over different counts, as of losses over the tokens of two tokenizers, have none.
    """
    if ours.ndim == 2:
        if (ours[:, 1] != theirs[:, 1]).any():
            return {}
        difference = paired_difference(ours, theirs, ratio)
        p = permutation_test(ours[:, 0], theirs[:, 0])  # over equal counts: as good as the ratios
    elif np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all():
        first, second = int((ours > theirs).sum()), int((theirs > ours).sum())
        difference = paired_proportions(first, second, len(ours))
        p = mcnemar(ours, theirs)
    else:
        difference = paired_difference(ours, theirs)
        p = permutation_test(ours, theirs)
    return {"difference": difference.to_json(), "p": p}


def decide(tasks: Mapping[str, Any]) -> None:
    """Note what the first figure of each task shows, and its p-value that holds for all of them.

    A word needs that below 5%, and an interval without zero.
    """
    measured = [task for task in tasks.values() if task["figures"]]
    first = [next(iter(task["figures"].values())) for task in measured]
    corrected = holm([figure["p"] for figure in first])
    for task, figure, p in zip(measured, first, corrected, strict=True):
        difference = Interval(**figure["difference"])
        figure |= {"p_holm": p, "verdict": verdict(difference, task["loss"], p=p)}
