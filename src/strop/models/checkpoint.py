"""Reading and writing safetensors, with every header checked before it is believed.

The format (documentation of the safetensors library, "Format"): eight bytes with the length of the
header, the header as JSON, then the tensors one after another without gaps.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.data import read_json
from strop.errors import StropError

#: Element types that are read, and how NumPy sees their bytes (bfloat16 as plain 16-bit integers).
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
WRITER = "strop"  #: stands in the metadata of the files that `write_safetensors` makes
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file."""

    dtype: str  #: as safetensors names it: "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  #: bytes from the start of the file
    size: int  #: bytes


@dataclass(frozen=True)
class Shard:
    """One mapped safetensors file."""

    path: Path
    data: mmap.mmap
    entries: dict[str, Entry]
    writer: str | None  #: what made the file, if it says so
    companions: frozenset[str]  #: files that were written beside it, if it says so


class Checkpoint:
    """The tensors of a model directory, read one at a time."""

    def __init__(self, directory: Path, config: dict[str, Any], shards: dict[str, Shard]) -> None:
        self.directory = directory
        self.config = config  #: the contents of config.json
        self.shards = shards  #: tensor name -> the file that holds it

    @property
    def names(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self.shards)

    @property
    def files(self) -> list[Path]:
        """Return the safetensors files, sorted."""
        return sorted({shard.path for shard in self.shards.values()})

    def entry(self, name: str) -> Entry:
        """Return what the header says about a tensor. Raises StropError if there is none."""
        if name not in self.shards:
            raise StropError(f"{self.directory}: no tensor named {name}")
        return self.shards[name].entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.entry(name).shape

    def dtype(self, name: str) -> str:
        """Return the stored element type of a tensor: "F32", "F16", "BF16", "U8", ..."""
        return self.entry(name).dtype

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a tensor: F16, BF16, F32 as float32, exactly; others as stored."""
        return to_float32(self.stored(name), self.dtype(name))

    def stored(self, name: str) -> NDArray[Any]:
        """Return a view of a tensor as it lies in the file; bfloat16 as 16-bit integers."""
        entry = self.entry(name)
        count = prod(entry.shape)
        data = self.shards[name].data
        stored = np.frombuffer(data, dtype=DTYPES[entry.dtype], count=count, offset=entry.start)
        return stored.reshape(entry.shape)


def to_float32(stored: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return a copy with half-precision types widened to float32, which holds all their values."""
    if dtype == "BF16":
        # bfloat16 is the upper half of a float32.
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "F16":
        return stored.astype(np.float32)
    return stored.copy()


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open the safetensors weights of a transformers or packed directory.

    Raises StropError, naming file and reason, for anything missing, truncated or inconsistent.
    """
    directory = Path(directory)
    config = read_json(directory / "config.json")
    if not isinstance(config, dict):
        raise StropError(f"{directory / 'config.json'}: expected a JSON object")
    if (directory / SINGLE).is_file():
        shard = open_shard(directory / SINGLE)
        return Checkpoint(directory, config, dict.fromkeys(shard.entries, shard))
    if (directory / INDEX).is_file():
        return Checkpoint(directory, config, open_shards(directory / INDEX))
    raise StropError(f"{directory}: no {SINGLE}")


def open_shards(index: Path) -> dict[str, Shard]:
    """Open all files that an index names."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise StropError(f"{index}: no weight_map")
    opened: dict[str, Shard] = {}
    shards = {}
    for name, file in weight_map.items():
        # A file name only: an index must not lead out of its directory.
        if not isinstance(file, str) or Path(file).name != file or file in {"", ".", ".."}:
            raise StropError(f"{index}: not a file name: {file!r}")
        if file not in opened:
            opened[file] = open_shard(index.parent / file)
        if name not in opened[file].entries:
            raise StropError(f"{index.parent / file}: no tensor {name}, which the index promises")
        shards[name] = opened[file]
    return shards


def open_shard(path: Path) -> Shard:
    """Map one safetensors file and check its header against its length."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size < 8:
                raise StropError(f"{path}: truncated: {size} bytes")
            data = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    except OSError as error:
        raise StropError(f"cannot read {path}: {error.strerror}") from error
    length = struct.unpack("<Q", data[:8])[0]
    if length > MAX_HEADER:
        raise StropError(f"{path}: not a safetensors file (header of {length} bytes)")
    if 8 + length > size:
        raise StropError(f"{path}: truncated: the header needs {8 + length} bytes of {size}")
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise StropError(f"{path}: header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise StropError(f"{path}: header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    writer = metadata.get("writer") if isinstance(metadata, dict) else None
    entries = {name: parsed(path, name, fields, 8 + length) for name, fields in header.items()}
    position = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)):
        if entry.start != position:
            raise StropError(f"{path}: tensor {name} does not follow the one before it")
        position += entry.size
    if position > size:
        raise StropError(f"{path}: truncated: the tensors need {position} bytes of {size}")
    if position < size:
        raise StropError(f"{path}: {size - position} bytes after the last tensor")
    companions = metadata.get("companions") if isinstance(metadata, dict) else None
    beside = frozenset(companions.split("/") if isinstance(companions, str) else ())
    return Shard(path, data, entries, writer if isinstance(writer, str) else None, beside)


def parsed(path: Path, name: str, fields: Any, start: int) -> Entry:
    """Check one tensor's fields in the header; its data begin `start` bytes later than it says."""
    if not isinstance(fields, dict):
        raise StropError(f"{path}: tensor {name}: expected an object")
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise StropError(f"{path}: tensor {name}: element type {dtype!r} is not read")
    if not whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise StropError(f"{path}: tensor {name}: bad shape {shape!r:.60}")
    if not whole_numbers(offsets) or len(offsets) != 2:
        raise StropError(f"{path}: tensor {name}: bad data_offsets {offsets!r:.60}")
    size = prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != size:
        raise StropError(
            f"{path}: tensor {name}: {dtype} of shape {shape} takes {size} bytes, "
            f"the header gives it {offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), start + offsets[0], size)


def whole_numbers(value: Any) -> bool:
    """Tell whether a JSON value is a list of whole numbers from 0 up to what 64 bits hold."""
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63 for item in value
    )


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that appears twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def write_safetensors(
    path: Path,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    chunks: Iterable[NDArray[Any]],
    companions: Sequence[str] = (),
) -> None:
    """Write a safetensors file as its data arrive, so that memory holds one chunk.

    `layout` maps names to (dtype, shape); `chunks` are arrays whose bytes make up the tensors in
    that order; `companions` are the files that are written beside this one. Raises StropError if
    the bytes do not add up.
    """
    metadata = {"format": "pt", "writer": WRITER, "companions": "/".join(companions)}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start on a multiple of eight bytes
    written = 0
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks:
            written += stream.write(np.ascontiguousarray(chunk).data)
    if written != end:
        raise StropError(f"{path}: wrote {written} bytes of tensors, expected {end}")
