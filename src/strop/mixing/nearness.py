"""How near texts are to each other, by their pairs of tokens: what a domain teaches about another.

The Bhattacharyya coefficient of the frequencies of pairs (1 for equal, 0 for disjoint), to the
fourth power. On our runs it explains more of a domain's loss than its own share alone, and more
than coefficients of single tokens, or other powers (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strop.training.corpus import TARGET, Corpus, Tokens

SAMPLE = 400_000  #: tokens of each text that are counted, at most
POWER = 4


def near(corpus: Corpus, texts: Sequence[str]) -> list[NDArray[np.float64]]:
    """Return for each text, a domain or the target, how near every domain is to it, (domains,)."""
    names = dict.fromkeys([*corpus.names, *texts])
    parts = {name: "validation" if name == TARGET else "first" for name in names}
    pairs = {name: frequencies(corpus.tokens(name, part)) for name, part in parts.items()}
    return [
        np.array([coefficient(pairs[text], pairs[name]) ** POWER for name in corpus.names])
        for text in texts
    ]


Frequencies = tuple[NDArray[np.int64], NDArray[np.float64]]  #: pairs in order, and their shares


def frequencies(tokens: Tokens) -> Frequencies:
    """Count the pairs of tokens that stand side by side."""
    some = np.asarray(tokens[:SAMPLE], dtype=np.int64)
    pairs, counts = np.unique((some[:-1] << 32) + some[1:], return_counts=True)
    return pairs, counts / counts.sum()


def coefficient(first: Frequencies, second: Frequencies) -> float:
    """Return the Bhattacharyya coefficient of two distributions."""
    _, a, b = np.intersect1d(first[0], second[0], assume_unique=True, return_indices=True)
    return float(np.sqrt(first[1][a] * second[1][b]).sum())
