"""Noise that depends only on the seed, the position and the token: the same for whoever asks.

A stream of random numbers gives a token another number whenever something else was drawn before
it. Here the number is a hash of (seed, position, token), so a drafter with other logits, a batch
in another order or a run that resumes in the middle all see the same noise (coupled sampling,
Daliri, Musco and Suresh 2024, arXiv 2408.07978).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strop import _native

#: Last word of the counter: what the numbers are for. Another use takes another number, since
#: noise shared between two decisions that should be independent biases both.
TOKEN_CHOICE, DRAFT, ACCEPT, REPLACE = range(4)


def uniform(seed: int, position: int, use: int) -> float:
    """Return one number in (0, 1) for a position and a use."""
    drawn = int(_native.random_words(seed, position, use, np.zeros(1, np.int64))[0])
    return (drawn + 0.5) * 2.0**-32


def gumbel(
    seed: int, position: int, tokens: NDArray[np.int64], use: int = TOKEN_CHOICE
) -> NDArray[np.float64]:
    """Return one standard Gumbel number for each token, float64 of the shape of `tokens`.

    `seed` and `position` lie in [0, 2**64); tokens are ids in [0, 2**34), in any order. Token v
    takes word v mod 4 of Philox4x32-10 under the key `seed`, with the counter (v div 4, position
    low, position high, use): Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
    1, 2, 3", SC 2011, section 3.3. The uniform number behind it has 32 bits and is never 0 or 1,
    so the result lies between -3.2 and 22.9.
    """
    noise = _native.random_words(seed, position, use, tokens).astype(np.float64)
    noise += 0.5
    noise *= 2.0**-32  # uniform in (0, 1)
    for _ in range(2):  # -log(-log(uniform)), in place: fresh memory costs as much as the logarithm
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise
