"""What became of a model's tensors when it was packed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PackedTensor:
    """What became of one tensor."""

    name: str
    kind: str  #: embedding, head, attention, mlp, norm or other
    format: str  #: a number format, or the type it was kept in
    shape: tuple[int, ...]
    bits_per_weight: float
    signal: float  #: sum of the squares of its values
    noise: float  #: sum of the squares of what was lost; 0 if nothing was

    @property
    def weights(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class PackSummary:
    """What packing a model gave."""

    format: str  #: the plan: a format, two joined by a plus sign, or a number of bits
    weights: int  #: number of weights, kept ones included
    bits_per_weight: float  #: over all weights
    source_bytes: int  #: of the tensors before
    packed_bytes: int  #: of the tensors after
    seconds: float
    tensors: tuple[PackedTensor, ...]
    calibration_tokens: int = 0  #: that were read to calibrate


@dataclass(frozen=True)
class KindSummary:
    """What became of the tensors of one kind that took one format."""

    kind: str
    format: str
    tensors: int
    weights: int
    bits: float  #: per weight
    snr_db: float | None  #: 10 log10(signal / noise), in decibels; None if nothing was lost


def by_kind(summary: PackSummary) -> list[KindSummary]:
    """Sum up the tensors of a packed model by kind and format, the largest share first."""
    groups: dict[tuple[str, str], list[PackedTensor]] = {}
    for row in summary.tensors:
        groups.setdefault((row.kind, row.format), []).append(row)
    result = []
    for (kind, format), rows in groups.items():
        weights = sum(row.weights for row in rows)
        bits = sum(row.bits_per_weight * row.weights for row in rows) / weights
        snr = decibels(sum(row.signal for row in rows), sum(row.noise for row in rows))
        result.append(KindSummary(kind, format, len(rows), weights, bits, snr))
    return sorted(result, key=lambda group: -group.weights)


def decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise); None without noise."""
    if noise == 0:
        return None
    if math.isinf(noise):  # a value beyond what float32 holds
        return -math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
