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

PIECES, PIECE = 100, 4_000  #: so many pieces of a text are counted, of so many tokens
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
    """Count the pairs of tokens that stand side by side, in evenly spread pieces of a long text."""
    every = max(PIECE, len(tokens) // PIECES)
    some = [tokens[begin : begin + PIECE] for begin in range(0, len(tokens), every)]
    both = np.concatenate([pairs_of(np.asarray(one, dtype=np.int64)) for one in some])
    pairs, counts = np.unique(both, return_counts=True)
    return pairs, counts / counts.sum()


def pairs_of(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each two tokens as one number."""
    found: NDArray[np.int64] = (tokens[:-1] << 32) + tokens[1:]
    return found


def coefficient(first: Frequencies, second: Frequencies) -> float:
    """Return the Bhattacharyya coefficient of two distributions."""
    _, a, b = np.intersect1d(first[0], second[0], assume_unique=True, return_indices=True)
    return float(np.sqrt(first[1][a] * second[1][b]).sum())
