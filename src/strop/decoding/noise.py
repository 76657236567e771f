"""Noise that depends only on the seed, the position and the token: the same for whoever asks.

A stream of random numbers gives a token another number whenever something else was drawn before
it. Here the number is a hash of (seed, position, token), so a drafter with other logits, a batch
in another order or a run that resumes in the middle all see the same noise (coupled sampling,
Daliri, Musco and Suresh 2024, arXiv 2408.07978).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  #: 32-bit words, each in a 64-bit integer so that products fit

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
WORD = 0xFFFFFFFF
LOW, SHIFT = np.uint64(WORD), np.uint64(32)

#: Last word of the counter: what the numbers are for. Another use takes another number, since
#: noise shared between two decisions that should be independent biases both.
TOKEN_CHOICE = 0


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: hash four 32-bit counter words under a two-word key into four random words.

    The counter words are arrays that broadcast against each other. Source: Salmon, Moraes, Dror
    and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
    """
    a, b, c, d = counter
    high, low = key
    for _ in range(ROUNDS):
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = (right >> SHIFT) ^ b ^ np.uint64(high), right & LOW
        c, d = (left >> SHIFT) ^ d ^ np.uint64(low), left & LOW
        high, low = (high + WEYL[0]) & WORD, (low + WEYL[1]) & WORD
    return a, b, c, d


def words(seed: int, position: int, blocks: Words) -> Words:
    """Return the four random words of each block of four tokens, shape (4, len(blocks))."""
    where = [np.array([word], np.uint64) for word in (position & WORD, position >> 32)]
    counter = (blocks, where[0], where[1], np.array([TOKEN_CHOICE], np.uint64))
    return np.stack(philox(counter, (seed & WORD, seed >> 32)))


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one standard Gumbel number for each token, float64 of the shape of `tokens`.

    `seed` and `position` lie in [0, 2**64); tokens are ids in [0, 2**34), in any order. Token v
    takes word v mod 4 of Philox block v div 4. The uniform number behind it has 32 bits and is
    never 0 or 1, so the result lies between -3.2 and 22.9.
    """
    if len(tokens) and 4 * len(tokens) > int(tokens.max()):
        # Most of the vocabulary: hash every block once instead of once for each of its tokens.
        blocks = np.arange(int(tokens.max()) // 4 + 1, dtype=np.uint64)
        drawn = words(seed, position, blocks).T.ravel()[tokens]
    else:
        every = words(seed, position, (tokens >> 2).astype(np.uint64))
        drawn = every[tokens & 3, np.arange(len(tokens))]
    uniform = (drawn.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log(-np.log(uniform))
