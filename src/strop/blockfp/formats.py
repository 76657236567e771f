"""The number formats, as rows of data.

A format stores a row of numbers in blocks of consecutive elements. An element is a small code; a
block has one scale. The value of an element is

    value = tensor_scale * scale(block) * values[code]

`values` lists what each code means, so that every rule about elements (nearest value, ties,
saturation) is a statement about this table. Sources: MSFP, Rouhani et al. 2020 (NeurIPS); MX, OCP
Microscaling Formats v1.0 and arXiv 2310.10537; NVFP4, NVIDIA; shared microexponents (MX4, MX6,
MX9), Rouhani et al. 2023 (ISCA); bfp4 to bfp8n, this project (docs/concepts/block-floating-point).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from strop.errors import unknown_name

NAN = math.nan


class ScaleRule(Enum):
    """How the power-of-two scale of a block follows from its largest magnitude `amax`."""

    FLOOR = "floor"  #: exponent of amax minus that of the largest element; may saturate the maximum
    CEIL = "ceil"  #: the same plus one unless amax is a power of two; never saturates
    RCEIL = "rceil"  #: smallest power of two >= amax / largest element; never saturates
    EVEN = "even"  #: amax rounded to the element's mantissa first, then FLOOR


class Rounding(Enum):
    """How a number becomes an element code."""

    EVEN = "even"  #: to the nearest value, ties to the even code
    TRUNCATE = "truncate"  #: towards zero, as the MSFP paper does


class Scale(Enum):
    """How the scale of a block is stored."""

    E8M0 = "e8m0"  #: one byte b: 2**(b - 127); 255 is NaN
    MICRO = "micro"  #: E8M0, then a byte whose bit i halves the scale of elements 2i and 2i+1
    UE4M3 = "ue4m3"  #: one float8 E4M3 byte without sign, times a float32 scale of the tensor
    S1E4M3 = "s1e4m3"  #: sign, 4 exponent, 3 mantissa bits, times a power of two of the tensor


@dataclass(frozen=True)
class Format:
    """One number format."""

    name: str  #: what users call it
    description: str  #: one line: element, scale, origin
    block: int  #: consecutive elements of a row that share a scale
    code_bits: int  #: bits of one element code
    scale: Scale  #: how a block's scale is stored
    values: tuple[float, ...]  #: the value of each code; NaN where a code is never a number
    sign_magnitude: bool  #: whether the top bit of a code is a sign, so that -0 exists
    mantissa_bits: int  #: explicit mantissa bits of an element just below its largest (for EVEN)
    scale_rule: ScaleRule = ScaleRule.FLOOR  #: the default rule for power-of-two scales
    rounding: Rounding = Rounding.EVEN  #: the default rounding of elements
    scale_steps: tuple[int, ...] = ()  #: S1E4M3: scales to try, counted from the smallest unclipped
    upper: Format | None = field(default=None, repr=False)  #: nested: what the upper plane is in

    @property
    def scale_bytes(self) -> int:
        """Return the bytes of scale that each block takes."""
        return 2 if self.scale is Scale.MICRO else 1

    @property
    def planes(self) -> int:
        """Return in how many planes codes are stored: 2, upper and lower halves, if nested."""
        return 2 if self.upper else 1

    @property
    def plane_bits(self) -> int:
        """Return the bits that each plane holds of a code."""
        return self.code_bits // self.planes

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per element of a tensor whose rows are whole blocks."""
        return self.code_bits + 8 * self.scale_bytes / self.block

    @property
    def has_tensor_scale(self) -> bool:
        """Return whether a tensor has one float32 scale besides those of its blocks."""
        return self.scale in (Scale.UE4M3, Scale.S1E4M3)

    @property
    def largest(self) -> float:
        """Return the largest magnitude of an element."""
        return max(abs(value) for value in self.values if math.isfinite(value))

    @property
    def largest_exponent(self) -> int:
        """Return floor(log2(largest)): emax in the MX specification."""
        return math.frexp(self.largest)[1] - 1


def float_values(exponent_bits: int, mantissa_bits: int, bias: int, largest: float) -> list[float]:
    """List the values of a sign-exponent-mantissa float by code; above `largest` comes NaN.

    An exponent field of zero means a subnormal: mantissa * 2**(1 - bias - mantissa_bits).
    """
    half = []
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = divmod(code, 1 << mantissa_bits)
        if exponent == 0:
            value = math.ldexp(mantissa, 1 - bias - mantissa_bits)
        else:
            value = math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
        half.append(value if value <= largest else NAN)
    return half + [-value for value in half]


def sign_magnitude_values(magnitude_bits: int) -> list[float]:
    """List the values of sign-magnitude integers in units of 2**(1 - magnitude_bits)."""
    half = [math.ldexp(code, 1 - magnitude_bits) for code in range(1 << magnitude_bits)]
    return half + [-value for value in half]


def twos_complement_values(bits: int, unit: float) -> list[float]:
    """List the values of two's complement integers times `unit`; the most negative is unused."""
    half = 1 << (bits - 1)
    return [code * unit for code in range(half)] + [NAN] + [c * unit for c in range(1 - half, 0)]


def symmetric_values(bits: int) -> list[float]:
    """List the integers 1 - 2**(bits-1) and up, coded by position from 1; code 0 is unused."""
    half = 1 << (bits - 1)
    return [NAN, *(float(code - half) for code in range(1, 2 * half))]


def nested_values(upper: Sequence[int]) -> list[float]:
    """List integers -127..127 by 8-bit code, the upper half of which is the nearest of `upper`.

    `upper` are 16 rising integers. The lower half counts the integers that are nearest to one of
    them, or, where there are more than 16, 16 spread over these. Codes that are left are NaN.
    """
    edges = [-127, *((a + b + 1) // 2 for a, b in pairwise(upper)), 128]
    values: list[float] = []
    for nearest in (range(*ends) for ends in pairwise(edges)):
        count = min(16, len(nearest))
        chosen = (nearest[(2 * i + 1) * len(nearest) // (2 * count)] for i in range(count))
        values += [*map(float, chosen), *[NAN] * (16 - count)]
    return values


def _msfp(total: int) -> Format:
    bits = total - 9
    return Format(
        name=f"msfp{total}",
        description=f"sign and {bits}-bit magnitude, 8-bit exponent per 16 (Rouhani 2020)",
        block=16,
        code_bits=bits + 1,
        scale=Scale.E8M0,
        values=tuple(sign_magnitude_values(bits)),
        sign_magnitude=True,
        mantissa_bits=bits - 1,
    )


def _mx_float(name: str, bits: int, exponent: int, mantissa: int, largest: float) -> Format:
    bias = (1 << (exponent - 1)) - 1
    return Format(
        name=name,
        description=f"float e{exponent}m{mantissa}, power-of-two scale per 32 (OCP MX v1.0)",
        block=32,
        code_bits=bits,
        scale=Scale.E8M0,
        values=tuple(float_values(exponent, mantissa, bias, largest)),
        sign_magnitude=True,
        mantissa_bits=mantissa,
    )


def _mx_int(bits: int, origin: str) -> Format:
    return Format(
        name=f"mxint{bits}",
        description=f"{bits}-bit integer, power-of-two scale per 32 ({origin})",
        block=32,
        code_bits=bits,
        scale=Scale.E8M0,
        values=tuple(twos_complement_values(bits, 2.0 ** (2 - bits))),
        sign_magnitude=False,
        mantissa_bits=bits - 2,
    )


def _microexponent(total: int, magnitude_bits: int) -> Format:
    return Format(
        name=f"mx{total}",
        description=f"sign and {magnitude_bits}-bit magnitude, exponent per 16, 1-bit microexponent"
        " per 2 (ISCA 2023)",
        block=16,
        code_bits=magnitude_bits + 1,
        scale=Scale.MICRO,
        values=tuple(sign_magnitude_values(magnitude_bits)),
        sign_magnitude=True,
        mantissa_bits=magnitude_bits - 1,
    )


def _nvfp4() -> Format:
    return Format(
        name="nvfp4",
        description="float e2m1, float8 scale per 16 and one float32 scale per tensor (NVIDIA)",
        block=16,
        code_bits=4,
        scale=Scale.UE4M3,
        values=tuple(float_values(2, 1, 1, 6.0)),
        sign_magnitude=True,
        mantissa_bits=1,
    )


# Rising integers fitted to Gaussian, Laplace and Student-t numbers (benchmarks/ladders.py).
LADDER_4 = (-127, -103, -79, -62, -47, -33, -20, -9, 0, 11, 24, 37, 50, 65, 83, 110)
# fmt: off
LADDER_5 = (
    -127, -112, -99, -91, -83, -75, -68, -61, -54, -48, -41, -34, -27, -20, -13, -7,
    0, 5, 10, 17, 23, 30, 36, 43, 50, 57, 64, 71, 78, 86, 98, 114,
)
# fmt: on
LADDER_6 = tuple(range(-128, 128, 4))


def _bfp(
    bits: int,
    block: int,
    values: Sequence[float],
    steps: tuple[int, ...],
    text: str,
    name: str | None = None,
) -> Format:
    return Format(
        name=name or f"bfp{bits}",
        description=f"{text}, s1e4m3 scale per {block} (ours)",
        block=block,
        code_bits=bits,
        scale=Scale.S1E4M3,
        values=tuple(float(value) for value in values),
        sign_magnitude=False,
        mantissa_bits=bits - 2,
        scale_steps=steps,
    )


def _nested(upper: Format) -> Format:
    return Format(
        name="bfp8n",
        description=f"8-bit integers, s1e4m3 scale per {upper.block}; upper halves of codes are "
        f"{upper.name} (ours)",
        block=upper.block,
        code_bits=8,
        scale=upper.scale,
        values=tuple(nested_values([int(value) for value in upper.values])),
        sign_magnitude=False,
        mantissa_bits=6,
        scale_steps=(0, 1, 2, 3),  # none of which clips, which would cost 8 bits more than 4 gain
        upper=upper,
    )


SEARCH = (0, 1, 2, -1)
BFP4 = _bfp(4, 16, LADDER_4, SEARCH, "16 fitted integers up to 127")

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        *(_msfp(total) for total in range(11, 17)),
        _mx_float("mxfp8_e5m2", 8, 5, 2, 57344.0),
        _mx_float("mxfp8_e4m3", 8, 4, 3, 448.0),
        _mx_float("mxfp6_e3m2", 6, 3, 2, 28.0),
        _mx_float("mxfp6_e2m3", 6, 2, 3, 7.5),
        _mx_float("mxfp4", 4, 2, 1, 6.0),
        _mx_int(8, "OCP MX v1.0"),
        _mx_int(6, "arXiv 2310.10537"),
        _mx_int(4, "arXiv 2310.10537"),
        _nvfp4(),
        _microexponent(4, 2),
        _microexponent(6, 4),
        _microexponent(9, 7),
        _bfp(8, 32, symmetric_values(8), (), "8-bit integers"),
        _bfp(6, 32, LADDER_6, SEARCH, "6-bit integers"),
        _bfp(5, 32, LADDER_5, SEARCH, "32 fitted integers up to 127"),
        BFP4,
        _bfp(4, 32, LADDER_4, SEARCH, "16 fitted integers up to 127", name="bfp4g32"),
        _nested(BFP4),
    )
}


def get_format(name: str) -> Format:
    """Return the format called `name`; StropError names the nearest one if there is none."""
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return FORMATS[name]
