"""Blocks that bring out mistakes: ties, edges of binades, subnormals, and what is not a number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def all_bfloat16(cols: int) -> Floats:
    """Every bfloat16 that is not NaN, once in blocks of neighbours and once in a random order."""
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    values = values[~np.isnan(values)]
    values = np.pad(values, (0, -len(values) % cols))
    shuffled = np.random.default_rng(1).permutation(values)
    return np.concatenate([values, shuffled]).reshape(-1, cols)


def every_bfloat16_alone(cols: int) -> Floats:
    """Every finite bfloat16 as the largest of a block whose other elements are fractions of it."""
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values)]
    fractions = np.linspace(-1, 1, cols, dtype=np.float32)
    return values[:, None] * fractions


def random_blocks(cols: int) -> Floats:
    """Normal numbers in rows of very different sizes."""
    rng = np.random.default_rng(2)
    sizes = np.exp2(rng.integers(-130, 120, (500, 1))).astype(np.float32)
    return rng.standard_normal((500, cols)).astype(np.float32) * sizes


def adversarial_blocks(cols: int) -> Floats:
    """Ties, the largest floats below powers of two, powers of two, subnormals and signed zeros."""
    rng = np.random.default_rng(3)
    exponents = np.arange(-149, 128)
    powers = np.ldexp(np.float32(1), exponents).astype(np.float32)
    below = np.nextafter(powers, np.float32(0))
    above = np.nextafter(powers, np.float32(np.inf))
    rows = []
    for leading in (powers, below, above, np.float32(1.75) * powers, np.float32(1.5) * powers):
        # Multiples of a power of two in each block: every step of every element format and the
        # points half-way between steps come up.
        steps = rng.integers(-256, 257, (len(leading), cols)).astype(np.float32) / np.float32(256)
        block = steps * powers[:, None]
        block[:, 0] = leading
        rows.append(block)
    subnormal = rng.integers(-(1 << 23), 1 << 23, (64, cols)).astype(np.float32)
    rows.append(np.ldexp(subnormal, -149).astype(np.float32))
    zeros = np.zeros((2, cols), np.float32)
    zeros[1] = -0.0
    rows.append(zeros)
    return np.concatenate(rows)


def not_numbers(cols: int) -> Floats:
    """Blocks with a NaN or an Inf among ordinary numbers, and random bit patterns."""
    rng = np.random.default_rng(4)
    block = rng.standard_normal((6, cols)).astype(np.float32)
    block[0, 3], block[1, 5], block[2, 7] = np.nan, np.inf, -np.inf
    block[3] = np.inf
    block[4, :2] = np.nan, np.inf
    noise = rng.integers(0, 1 << 32, (64, cols), dtype=np.uint64).astype(np.uint32)
    return np.concatenate([block, noise.view(np.float32)])
