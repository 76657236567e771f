"""The native extension: kernels that give the same bits as `strop.blockfp.reference`."""

from numpy import float32, uint8
from numpy.typing import NDArray

class Layout:
    """A number format as the kernels see it."""

    def __init__(
        self,
        block: int,
        code_bits: int,
        scale: int,
        element: int,
        mantissa_bits: int,
        smallest_exponent: int,
        largest: float,
        largest_exponent: int,
        values: list[float],
        steps: list[int],
        /,
    ) -> None: ...

def quantize(
    layout: Layout,
    rule: int,
    truncate: bool,
    x: NDArray[float32],
    tensor_scale: float,
    codes: NDArray[uint8],
    scales: NDArray[uint8],
    threads: int,
    /,
) -> None:
    """Quantize rows into `codes` and `scales`; ValueError if shapes do not fit the format."""

def dequantize(
    layout: Layout,
    codes: NDArray[uint8],
    scales: NDArray[uint8],
    tensor_scale: float,
    y: NDArray[float32],
    threads: int,
    /,
) -> None:
    """Dequantize rows into `y`; ValueError if shapes do not fit the format."""

def largest_finite(x: NDArray[float32], threads: int, /) -> float:
    """Return the largest finite magnitude of an array; 0 if there is none."""

def instruction_set() -> str:
    """Return the instruction set in use: the best one, or the one that STROP_ISA names."""

def instruction_sets() -> list[str]:
    """Return the instruction sets that this processor has, the fastest first."""
