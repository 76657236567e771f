"""Plain models: packed weights spread out again, and adapters added to the weights of a base."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.blockfp import Format, dequantize
from strop.console import progress
from strop.data import sha256_json, write_json
from strop.errors import StropError
from strop.models.adapters import FLOATS, ORIGINS, WEIGHTS, Adapter, read_adapter
from strop.models.cache import known_sha256
from strop.models.checkpoint import SINGLE, Checkpoint, open_checkpoint, write_safetensors
from strop.models.identity import tree_hash
from strop.models.packed import is_packed, packed_rows, packed_tensors, part_names, read_packed
from strop.models.packing import CONFIG, copy_companions

ROWS = 256  #: of a matrix that are in float64 at a time


@dataclass(frozen=True)
class Plain:
    """A model directory as it would be without packing; its matrices are read one at a time."""

    checkpoint: Checkpoint
    packed: dict[str, tuple[Format, int]]  #: format and columns of what is packed
    layout: dict[str, tuple[str, tuple[int, ...]]]  #: element type and shape of all tensors

    def stored(self, name: str) -> NDArray[Any]:
        """Return a tensor in the element type of the layout; bfloat16 as 16-bit integers."""
        if name in self.packed:
            return dequantize(read_packed(self.checkpoint, name, *self.packed[name]))
        return self.checkpoint.stored(name)

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a copy of a tensor in float32. Raises StropError if it is not of numbers."""
        if name in self.packed:
            return self.stored(name)
        if self.layout[name][0] not in FLOATS:
            raise self.error(f"{name} is {self.layout[name][0]}, not one of {', '.join(FLOATS)}")
        return self.checkpoint.read(name)

    def error(self, problem: str) -> StropError:
        """Build the error for a problem with this model."""
        return StropError(f"{self.checkpoint.directory}: {problem}")


def open_plain(directory: Path) -> Plain:
    """Open a transformers or packed directory. Raises StropError for other quantized ones."""
    checkpoint = open_checkpoint(directory)
    packed: dict[str, tuple[Format, int]] = {}
    if is_packed(checkpoint.config):
        packed = packed_tensors(str(directory), checkpoint.config["quantization_config"])
    elif "quantization_config" in checkpoint.config:
        raise StropError(f"{directory}: is quantized, in a way that is not read")
    parts = {part for name, (format, _) in packed.items() for part in part_names(name, format)}
    layout = {
        name: (checkpoint.dtype(name), checkpoint.shape(name))
        for name in checkpoint.names
        if name not in parts
    }
    for name, (_, columns) in packed.items():
        layout[name] = ("F32", (packed_rows(checkpoint, name), columns))
    return Plain(checkpoint, packed, layout)


def merged_digest(adapter: Path, base: Path) -> str:
    """Return the hash of all that a merged model is made from."""
    read = read_adapter(adapter)
    weights = known_sha256(adapter / WEIGHTS)
    return sha256_json([tree_hash(base, known_sha256), weights, read.rank, read.alpha])


def merge(directory: Path, base: Path, target: Path) -> None:
    """Write the model that the adapter in `directory` makes of its base into a new directory.

    Raises StropError if the adapter does not fit, or if the sum is not finite.
    """
    adapter, plain = read_adapter(directory), open_plain(base)
    for module, (a, b) in adapter.layers.items():
        shape = plain.layout.get(f"{module}.weight", ("", ()))[1]
        if shape != (len(b), a.shape[1]):
            found = f"is {shape}, not {(len(b), a.shape[1])}" if shape else "is not there"
            raise StropError(f"{directory}: does not fit {adapter.base}: {module}.weight {found}")
    write_plain(plain, target, adapter)
    if (directory / ORIGINS).is_file():
        shutil.copyfile(directory / ORIGINS, target / ORIGINS)


def write_plain(plain: Plain, target: Path, adapter: Adapter | None = None) -> None:
    """Write an ordinary transformers directory, with an adapter added to the weights if given."""
    layers = adapter.layers if adapter else {}
    # What changes is written in float32: rounded to the type of the base it would be another
    # model than the one that was trained.
    changed = {f"{module}.weight" for module in layers}
    layout = {
        name: ("F32" if name in changed else dtype, shape)
        for name, (dtype, shape) in plain.layout.items()
    }
    config = plain.checkpoint.config
    if changed or plain.packed:
        dropped = ("quantization_config", "torch_dtype")  # and the older name of dtype
        config = {key: value for key, value in config.items() if key not in dropped}
        config |= {"dtype": "float32"}
    companions = copy_companions(plain.checkpoint.directory, target)
    write_json(target / CONFIG, config)
    weights = sum(math.prod(shape) for _, shape in layout.values())
    with progress("merging" if adapter else "writing", weights, "weights") as advance:
        tensors = values(plain, list(layout), adapter, advance)
        write_safetensors(target / SINGLE, layout, tensors, companions)


def values(
    plain: Plain, names: list[str], adapter: Adapter | None, advance: Callable[[float], None]
) -> Iterator[NDArray[Any]]:
    """Yield the tensors of a plain model one by one, with an adapter added."""
    for name in names:
        module = name.removesuffix(".weight")
        if adapter and name.endswith(".weight") and module in adapter.layers:
            matrix = plain.read(name)
            add_product(matrix, adapter.scale, *adapter.layers[module])
            if not np.isfinite(matrix).all():
                raise plain.error(f"{name} holds NaN or infinity when the adapter is added")
            yield matrix
        else:
            yield plain.stored(name)
        advance(math.prod(plain.layout[name][1]))


def add_product(
    matrix: NDArray[np.float32], scale: float, a: NDArray[np.float32], b: NDArray[np.float32]
) -> None:
    """Add scale B A in place: computed in float64 and rounded once, so it is the same anywhere."""
    wide = scale * a.astype(np.float64)
    with np.errstate(over="ignore"):  # found by the caller
        for start in range(0, len(matrix), ROWS):
            rows = slice(start, start + ROWS)
            matrix[rows] = matrix[rows] + b[rows].astype(np.float64) @ wide
