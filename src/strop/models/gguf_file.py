"""Reading GGUF files: header, metadata and quantized tensors.

GGUF (specification: docs/gguf.md of ggml) is a little-endian header, key-value pairs, a table of
tensors and their aligned data. A file may come from anyone, so every length is checked against the
file before it is used, and whatever does not fit is one StropError that names the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4

#: Element types that are read, as ggml numbers them.
KINDS = {
    0: "F32",
    1: "F16",
    30: "BF16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
}

#: Metadata value types: number -> struct format. 8 is a string and 9 an array.
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in the file."""

    name: str
    kind: str  #: element type: "F16", "Q4_1", ...
    shape: tuple[int, ...]  #: rows first, as NumPy and safetensors write it
    offset: int  #: bytes from the start of the file
    size: int  #: bytes


class GGUFFile:
    """A mapped GGUF file: `metadata` by key and `tensors` by name."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as stream:
                # An empty file cannot be mapped.
                size = stream.seek(0, 2)
                self.data: Any = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) if size else b""
        except OSError as error:
            raise StropError(f"cannot read {self.path}: {error.strerror}") from error
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.position = 0
        self.read_header()

    def error(self, problem: str) -> StropError:
        """Build the error for a problem with this file."""
        return StropError(f"{self.path}: {problem}")

    def read_header(self) -> None:
        """Read everything but the tensors' data."""
        if self.take(4) != MAGIC:
            raise self.error("not a GGUF file (wrong magic)")
        version = self.scalar("<I")
        if version not in VERSIONS:
            if version.to_bytes(4, "little")[:2] == b"\0\0":
                raise self.error("big-endian GGUF files are not read")
            raise self.error(f"GGUF version {version} is not read, only 2 and 3")
        tensors, pairs = self.scalar("<Q"), self.scalar("<Q")
        for _ in range(pairs):
            key = self.string()
            if key in self.metadata:
                raise self.error(f"metadata key {key} appears twice")
            self.metadata[key] = self.value(self.scalar("<I"))
        infos = [self.tensor_info() for _ in range(tensors)]
        alignment = self.optional("general.alignment", int, 32)
        if alignment <= 0 or alignment & (alignment - 1):
            raise self.error(f"general.alignment is {alignment}, not a power of two")
        start = -(-self.position // alignment) * alignment
        for name, kind, shape, offset in infos:
            if name in self.tensors:
                raise self.error(f"tensor {name} appears twice")
            self.tensors[name] = self.located(name, kind, shape, start + offset)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes of the header."""
        if count > len(self.data) - self.position:
            raise self.error("truncated: the header ends early")
        start = self.position
        self.position += count
        return bytes(self.data[start : self.position])

    def scalar(self, layout: str) -> Any:
        """Read one number."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self) -> str:
        """Read a string: its length in bytes, then UTF-8."""
        raw = self.take(self.scalar("<Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 text near byte {self.position}") from error

    def value(self, kind: int) -> Any:
        """Read one metadata value; arrays become lists."""
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise self.error(f"unknown metadata type {kind} near byte {self.position}")
        item, count = self.scalar("<I"), self.scalar("<Q")
        if item == STRING:
            return [self.string() for _ in range(count)]
        if item not in SCALARS:
            raise self.error(f"unknown array type {item} near byte {self.position}")
        width = struct.calcsize(SCALARS[item])
        return np.frombuffer(self.take(width * count), dtype=SCALARS[item]).tolist()

    def tensor_info(self) -> tuple[str, str, tuple[int, ...], int]:
        """Read one row of the tensor table: name, element type, shape and offset."""
        name, dimensions = self.string(), self.scalar("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.error(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self.scalar("<Q") for _ in range(dimensions))[::-1]
        kind = self.scalar("<I")
        if kind not in KINDS:
            known = ", ".join(KINDS.values())
            raise self.error(f"tensor {name} has element type {kind}, which is not read ({known})")
        return name, KINDS[kind], shape, self.scalar("<Q")

    def located(self, name: str, kind: str, shape: tuple[int, ...], offset: int) -> Tensor:
        """Check that a tensor is whole."""
        elements, width = block_layout(kind)
        if shape[-1] % elements or 0 in shape:
            raise self.error(f"tensor {name} has shape {shape}, not whole blocks of {kind}")
        size = prod(shape) // elements * width
        if offset + size > len(self.data):
            raise self.error(f"truncated: the data of tensor {name} ends early")
        return Tensor(name, kind, shape, offset, size)

    def required(self, key: str, kind: type) -> Any:
        """Return a metadata value that must be there, of this type."""
        if key not in self.metadata:
            raise self.error(f"metadata key {key} is missing")
        value = self.metadata[key]
        # bool is an int to Python; a whole number will do where a float is asked for.
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"metadata key {key} is {value!r:.40}, not of type {kind.__name__}")
        if kind is float and not isfinite(value):
            raise self.error(f"metadata key {key} is {value}")
        return value

    def optional(self, key: str, kind: type, default: Any = None) -> Any:
        """Return a metadata value of this type, or `default` when the key is not there."""
        return self.required(key, kind) if key in self.metadata else default

    def rows(self, tensor: Tensor) -> NDArray[np.uint8]:
        """Return the stored bytes of a tensor, uint8 of shape (rows, bytes per row), not copied."""
        raw = np.frombuffer(self.data, dtype=np.uint8, count=tensor.size, offset=tensor.offset)
        return raw.reshape(prod(tensor.shape[:-1]), -1)


def block_layout(kind: str) -> tuple[int, int]:
    """Return (elements, bytes) of one block of an element type."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return int(elements), int(width)


def dequantize(rows: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """Return stored rows as float32 of shape (rows, columns)."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    expand: Callable[..., NDArray[np.float32]] = dequantize
    with np.errstate(all="ignore"):  # a scale of infinity is the file's affair
        return expand(np.ascontiguousarray(rows), GGMLQuantizationType[kind])
