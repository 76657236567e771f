"""Number formats in which a block of elements shares one scale."""

from strop.blockfp.formats import (
    FORMATS,
    Format,
    Rounding,
    Scale,
    ScaleRule,
    get_format,
)
from strop.blockfp.tensor import BlockTensor, dequantize, quantize, upper

__all__ = [
    "FORMATS",
    "BlockTensor",
    "Format",
    "Rounding",
    "Scale",
    "ScaleRule",
    "dequantize",
    "get_format",
    "quantize",
    "upper",
]
