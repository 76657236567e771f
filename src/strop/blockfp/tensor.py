"""Quantize and dequantize arrays, by the native kernels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strop import _native
from strop.blockfp import reference
from strop.blockfp.formats import FORMATS, Format, Rounding, Scale, ScaleRule
from strop.errors import StropError

SCALES = tuple(Scale)
RULES = tuple(ScaleRule)
ELEMENTS = ("sign_magnitude", "twos_complement", "offset_integer", "ladder")


@dataclass(frozen=True)
class BlockTensor:
    """An array in a block format; blocks run along its last axis."""

    format: Format
    shape: tuple[int, ...]  #: of the array
    codes: NDArray[np.uint8]  #: (planes * rows, ceil(cols * plane_bits / 8)); upper plane first
    scales: NDArray[np.uint8]  #: (rows, ceil(cols / block) * scale_bytes)
    tensor_scale: np.float32  #: 1 where the format has none

    @property
    def nbytes(self) -> int:
        """Return the bytes of codes and scales, and of the tensor scale if the format has one."""
        whole = 4 if self.format.has_tensor_scale else 0
        return self.codes.nbytes + self.scales.nbytes + whole


def quantize(
    x: ArrayLike,
    format: Format,
    scale_rule: ScaleRule | None = None,
    rounding: Rounding | None = None,
) -> BlockTensor:
    """Quantize an array along its last axis; a last block that is not whole is padded with zeros.

    `scale_rule` and `rounding` default to those of the format; the rule matters for power-of-two
    scales only. A NaN makes its whole block NaN, as Inf does where the format cannot hold it.
    """
    instruction_set()
    array = np.ascontiguousarray(x, np.float32)
    rows = as_rows(array)
    cols = rows.shape[1]
    amax = _native.largest_finite(rows, threads()) if format.has_tensor_scale else 0.0
    whole = reference.tensor_scale(amax, format)
    blocks = -(-cols // format.block)
    code_bytes = -(-cols * format.plane_bits // 8)
    codes = np.empty((format.planes * len(rows), code_bytes), np.uint8)
    scales = np.empty((len(rows), blocks * format.scale_bytes), np.uint8)
    rule = RULES.index(scale_rule or format.scale_rule)
    truncate = (rounding or format.rounding) is Rounding.TRUNCATE
    _native.quantize(layout(format), rule, truncate, rows, float(whole), codes, scales, threads())
    return BlockTensor(format, array.shape, codes, scales, whole)


def dequantize(tensor: BlockTensor) -> NDArray[np.float32]:
    """Return the values of a block tensor, float32 of its shape."""
    instruction_set()
    rows = math.prod(tensor.shape[:-1])
    result = np.empty((rows, tensor.shape[-1]), np.float32)
    whole = float(tensor.tensor_scale)
    _native.dequantize(layout(tensor.format), tensor.codes, tensor.scales, whole, result, threads())
    return result.reshape(tensor.shape)


def upper(tensor: BlockTensor) -> BlockTensor:
    """Return the upper plane of a tensor in a nested format: a 4-bit tensor of the same memory.

    Raises StropError if the format is not nested.
    """
    if tensor.format.upper is None:
        nested = ", ".join(name for name, format in FORMATS.items() if format.upper)
        raise StropError(f"{tensor.format.name} has no upper plane: pack as {nested}")
    codes = tensor.codes[: len(tensor.scales)]
    return replace(tensor, format=tensor.format.upper, codes=codes)


def as_rows(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """View an array of any rank as rows along its last axis."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def instruction_set() -> str:
    """Return the kernels in use; StropError if $STROP_ISA names none that this processor runs."""
    try:
        return _native.instruction_set()
    except RuntimeError as error:
        raise StropError(str(error)) from error


def threads() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def layout(format: Format) -> _native.Layout:
    """Describe a format to the kernels."""
    smallest_exponent = 0
    if format.sign_magnitude:
        element = "sign_magnitude"
        smallest_exponent = int(math.log2(format.values[1])) + format.mantissa_bits
    elif format.values[0] == 0:
        element = "twos_complement"
        smallest_exponent = int(math.log2(format.values[1]))
    elif format.scale_steps:
        element = "ladder"
    else:
        element = "offset_integer"
    return _native.Layout(
        format.block,
        format.code_bits,
        SCALES.index(format.scale),
        ELEMENTS.index(element),
        format.mantissa_bits,
        smallest_exponent,
        format.largest,
        format.largest_exponent,
        list(format.values),
        list(format.scale_steps),
        list(format.upper.values if format.upper else ()),
    )
