"""Fit the integers of bfp4 and bfp5: Lloyd's algorithm with the format's own scale search.

Each round quantizes with the ladder so far, then moves each value to the mean of what was mapped to
it, weighted by the square of the scale (Lloyd 1982). Zero stays, so that zeros stay exact.
Prints ladders and signal-to-noise ratios; the best go into strop/blockfp/formats.py by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import numpy as np

from strop.blockfp import FORMATS, Format, dequantize, quantize, reference


def samples(count: int, seed: int) -> dict[str, np.ndarray]:
    """Numbers of unit variance from distributions like those of weights."""
    rng = np.random.default_rng(seed)
    raw = {
        "gauss": rng.standard_normal(count),
        "laplace": rng.laplace(size=count),
        "student-t5": rng.standard_t(5, count),
    }
    return {name: (x / x.std()).astype(np.float32).reshape(-1, 1024) for name, x in raw.items()}


def with_values(format: Format, values: np.ndarray) -> Format:
    return dataclasses.replace(format, values=tuple(float(v) for v in np.rint(values)))


def fit(format: Format, data: list[np.ndarray], rounds: int) -> np.ndarray:
    size = len(format.values)
    ladder = np.array(format.values)
    for _ in range(rounds):
        total, weight = np.zeros(size), np.zeros(size)
        for x in data:
            tensor = quantize(x, with_values(format, ladder))
            codes = reference.unpack_codes(tensor.codes, format.code_bits, x.shape[1]).ravel()
            scales = reference.s1e4m3_values()[tensor.scales] * tensor.tensor_scale
            scale = np.repeat(scales.astype(np.float64), format.block, axis=1).ravel()
            total += np.bincount(codes, x.ravel() * scale, size)
            weight += np.bincount(codes, scale * scale, size)
        mean = np.where(weight > 0, total / np.maximum(weight, 1e-30), ladder)
        mean[np.argmin(np.abs(mean))] = 0
        # Move half of the way, so that rounding does not make it go round in circles.
        ladder = np.sort(0.5 * ladder + 0.5 * mean * (127 / np.abs(mean).max()))
        ladder[np.argmin(np.abs(ladder))] = 0
    return np.rint(ladder)


def snr(format: Format, x: np.ndarray) -> float:
    error = dequantize(quantize(x, format)).astype(np.float64) - x
    return 10 * math.log10(np.sum(np.square(x, dtype=np.float64)) / np.sum(error**2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1 << 19, help="numbers per distribution")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    data, test = samples(arguments.count, 0), samples(arguments.count, 1)
    # Weights are close to Gaussian within a block: it counts twice.
    training = [data["gauss"], data["gauss"], data["laplace"], data["student-t5"]]
    for name in ("bfp4", "bfp5"):
        format = FORMATS[name]
        size = len(format.values)
        uniform = np.linspace(-127, 127 * (size / 2 - 1) / (size / 2), size)
        candidates = {
            "integers": uniform,
            "now": np.array(format.values),
            "fitted": fit(format, training, arguments.rounds),
        }
        for label, ladder in candidates.items():
            row = with_values(format, ladder)
            ratios = ", ".join(f"{key} {snr(row, x):.2f} dB" for key, x in test.items())
            print(f"{name} {label}: {ratios}: {[int(v) for v in row.values]}", flush=True)


if __name__ == "__main__":
    main()
