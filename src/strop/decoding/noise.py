"""Noise that depends only on the seed, the position and the token: the same for whoever asks.

A stream of random numbers gives a token another number whenever something else was drawn before
it. Here the number is a hash of (seed, position, token), so a drafter with other logits, a batch
in another order or a run that resumes in the middle all see the same noise (coupled sampling,
Daliri, Musco and Suresh 2024, arXiv 2408.07978).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  #: 32-bit words, each in a 64-bit integer so that products fit

ROUNDS = 10
MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)  # added to the key after each round
LOW, SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)

#: Last word of the counter: what the numbers are for. Another use takes another number, since
#: noise shared between two decisions that should be independent biases both.
TOKEN_CHOICE, DRAFT, ACCEPT, REPLACE = range(4)


@lru_cache(maxsize=64)
def key_schedule(seed: int) -> tuple[Words, ...]:
    """Return the key of each round, shape (2, 1), for a 64-bit seed."""
    key = np.array([[seed & 0xFFFFFFFF], [seed >> 32]], np.uint64)
    return tuple((key + np.uint64(step) * WEYL) & LOW for step in range(ROUNDS))


def philox(counter: Words, seed: int) -> Words:
    """Philox4x32-10: hash blocks of four 32-bit words, shape (4, n), under a 64-bit key.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
    section 3.3. The words are held as two pairs, so that a round is five array operations.
    """
    even, odd = counter[0::2], counter[1::2]
    for key in key_schedule(seed):
        product = (even * MULTIPLIERS)[::-1]
        even, odd = (product >> SHIFT) ^ odd ^ key, product & LOW
    return np.stack([even[0], odd[0], even[1], odd[1]])


def words(seed: int, position: int, blocks: Words, use: int = TOKEN_CHOICE) -> Words:
    """Return the four random words of each block of four tokens, shape (4, len(blocks))."""
    counter = np.empty((4, len(blocks)), np.uint64)
    counter[0] = blocks
    counter[1:] = [[position & 0xFFFFFFFF], [position >> 32], [use]]
    return philox(counter, seed)


def uniform(seed: int, position: int, use: int) -> float:
    """Return one number in (0, 1) for a position and a use."""
    drawn = int(words(seed, position, np.zeros(1, np.uint64), use)[0, 0])
    return (drawn + 0.5) * 2.0**-32


def gumbel(
    seed: int, position: int, tokens: NDArray[np.int64], use: int = TOKEN_CHOICE
) -> NDArray[np.float64]:
    """Return one standard Gumbel number for each token, float64 of the shape of `tokens`.

    `seed` and `position` lie in [0, 2**64); tokens are ids in [0, 2**34), in any order. Token v
    takes word v mod 4 of Philox block v div 4. The uniform number behind it has 32 bits and is
    never 0 or 1, so the result lies between -3.2 and 22.9.
    """
    if len(tokens) and 4 * len(tokens) > int(tokens.max()):
        # Most of the vocabulary: hash every block once instead of once for each of its tokens.
        blocks = np.arange(int(tokens.max()) // 4 + 1, dtype=np.uint64)
        drawn = words(seed, position, blocks, use).T.ravel()[tokens]
    else:
        every = words(seed, position, (tokens >> 2).astype(np.uint64), use)
        drawn = every[tokens & 3, np.arange(len(tokens))]
    noise = drawn.astype(np.float64)
    noise += 0.5
    noise *= 2.0**-32  # uniform in (0, 1)
    for _ in range(2):  # -log(-log(uniform)), in place: fresh memory costs as much as the logarithm
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise
