"""How much of a reference a text says: ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np


def rouge_l(text: str, references: Sequence[str]) -> float:
    """Return ROUGE-L's F1 of a text, the best over its references, 0 to 1.

    The longest common subsequence of words (letters and digits in lower case), without stemming.
    (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.)
    """
    return max(f1(words(text), words(reference)) for reference in references)


def words(text: str) -> list[str]:
    """Split a text into words."""
    return re.findall(r"[^\W_]+", text.lower())


def f1(text: Sequence[str], reference: Sequence[str]) -> float:
    """Return the harmonic mean of the shares of both that their common subsequence makes up."""
    common = longest_common(text, reference)
    return 2 * common / (len(text) + len(reference)) if common else 0.0


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    best = np.zeros(len(right) + 1, dtype=np.int64)
    for one in left:
        same = np.array([one == other for other in right], dtype=bool)
        longer = np.where(same, best[:-1] + 1, best[1:])
        best[1:] = np.maximum.accumulate(np.maximum(longer, best[1:]))
    return int(best[-1])
