"""Packing a model into block formats, and back."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.blockfp import Format, dequantize, quantize
from strop.console import progress
from strop.data import atomic_path, write_json
from strop.errors import StropError
from strop.models.checkpoint import (
    SINGLE,
    WRITER,
    Checkpoint,
    open_checkpoint,
    write_safetensors,
)
from strop.models.pack_summary import PackedTensor, PackSummary
from strop.models.packed import (
    is_packed,
    packed_rows,
    packed_tensors,
    part_layout,
    quantization_config,
    read_packed,
    tensor_kind,
)
from strop.models.plan import Plan, tensor_format
from strop.models.references import resolve

#: Element types that are packed; whole numbers and truth values are kept
FLOATS = ("F64", "F32", "F16", "BF16")

#: Files that go along with the weights, by their ending
COMPANIONS = (".json", ".jinja", ".model", ".txt")


def pack(
    reference: str,
    format: str,
    output: Path,
    overrides: Mapping[str, str] | None = None,
) -> PackSummary:
    """Pack all matrices of a model, embedding and head included, into a directory.

    `format` is a number format, or two joined by a plus sign, the second for embedding and head.
    Vectors (norms, biases) are kept. `overrides` maps patterns of tensor names, such as
    "*.down_proj.weight", to a format or "keep"; the last one that matches holds. The directory
    appears when it is whole, and replaces one that is there if Strop wrote it and nobody put
    anything beside. Raises StropError: unknown format, a pattern that matches no matrix, a source
    that is packed already, and a directory that is not to be replaced.
    """
    start = time.monotonic()
    plan = Plan.parse(format)
    checkpoint = open_checkpoint(resolve(reference))
    check_output(output, checkpoint.directory)
    if "quantization_config" in checkpoint.config:
        raise StropError(f"{reference}: is quantized already: pack the model that it was made from")
    formats = chosen_formats(checkpoint, plan, overrides or {})
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names}
    layout = packed_layout(checkpoint, formats)
    tensors: list[PackedTensor] = []
    with atomic_path(output) as partial:
        partial.mkdir()
        copy_companions(checkpoint.directory, partial)
        columns = {name: shapes[name][1] for name in formats}
        config = checkpoint.config | {
            "quantization_config": quantization_config(format, reference, formats, columns)
        }
        write_json(partial / "config.json", config)
        weights = sum(math.prod(shape) for shape in shapes.values())
        with progress(f"packing as {format}", weights, "weights") as advance:
            write_safetensors(
                partial / SINGLE, layout, packed_parts(checkpoint, formats, tensors, advance)
            )
    packed_bits = sum(row.bits_per_weight * row.weights for row in tensors)
    return PackSummary(
        format=format,
        weights=weights,
        bits_per_weight=packed_bits / weights,
        source_bytes=sum(checkpoint.entry(name).size for name in shapes),
        packed_bytes=round(packed_bits / 8),
        seconds=time.monotonic() - start,
        tensors=tuple(tensors),
    )


def chosen_formats(
    checkpoint: Checkpoint, plan: Plan, overrides: Mapping[str, str]
) -> dict[str, Format]:
    """Choose the format of each matrix; tensors that are not in the result are kept."""
    matrices = [
        name
        for name in checkpoint.names
        if len(checkpoint.shape(name)) == 2
        and 0 not in checkpoint.shape(name)
        and checkpoint.dtype(name) in FLOATS
        and tensor_kind(name) != "norm"
    ]
    if not matrices:
        raise StropError(f"{checkpoint.directory}: no matrices to pack")
    chosen: dict[str, Format | None] = {name: plan.of(tensor_kind(name)) for name in matrices}
    for pattern, override in overrides.items():
        format = tensor_format(override)
        matching = [name for name in matrices if fnmatchcase(name, pattern)]
        if not matching:
            raise StropError(f"no matrix is called '{pattern}': the first is {matrices[0]}")
        chosen |= dict.fromkeys(matching, format)
    return {name: format for name, format in chosen.items() if format}


def packed_layout(
    checkpoint: Checkpoint, formats: Mapping[str, Format]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of everything that is stored, in order of the names of the tensors."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in checkpoint.names:
        dtype, shape = checkpoint.dtype(name), checkpoint.shape(name)
        parts = (
            part_layout(name, shape, formats[name]) if name in formats else {name: (dtype, shape)}
        )
        if taken := sorted(layout.keys() & parts.keys()):
            raise StropError(f"{checkpoint.directory}: two tensors would be stored as {taken[0]}")
        layout |= parts
    return layout


def packed_parts(
    checkpoint: Checkpoint,
    formats: Mapping[str, Format],
    tensors: list[PackedTensor],
    advance: Callable[[float], None],
) -> Iterator[NDArray[Any]]:
    """Yield the stored parts of each tensor in order of name, and note what became of it."""
    for name in checkpoint.names:
        shape, kind = checkpoint.shape(name), tensor_kind(name)
        if name in formats:
            values = checkpoint.read(name).astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise StropError(f"{checkpoint.directory}: {name} holds NaN or infinity")
            block = quantize(values, formats[name])
            yield block.codes
            yield block.scales
            if block.format.has_tensor_scale:
                yield np.array(block.tensor_scale)
            bits = 8 * block.nbytes / values.size
            noise = power(dequantize(block) - values)
            tensors.append(
                PackedTensor(name, kind, block.format.name, shape, bits, power(values), noise)
            )
        else:
            stored, dtype = checkpoint.stored(name), checkpoint.dtype(name)
            yield stored
            bits = 8 * stored.itemsize
            signal = power(checkpoint.read(name).astype(np.float32, copy=False))
            tensors.append(PackedTensor(name, kind, dtype, shape, bits, signal, 0.0))
        advance(math.prod(shape))


def power(values: NDArray[np.float32]) -> float:
    """Return the sum of squares, added in float64."""
    return float(np.einsum("i,i->", values.ravel(), values.ravel(), dtype=np.float64))


def check_output(output: Path, source: Path) -> None:
    """Raise StropError unless `output` is free, or a model directory that Strop wrote.

    Nothing that somebody else put somewhere is destroyed, and never the source.
    """
    place = Path(output).resolve()
    if source.resolve().is_relative_to(place):
        raise StropError(f"{output}: would replace the source: name another directory")
    if Path.cwd().is_relative_to(place):
        raise StropError(f"{output}: would replace the current directory: name another one")
    if not place.exists():
        return
    if not place.is_dir():
        raise StropError(f"{output}: is a file: name a directory")
    foreign = first_foreign(place)
    if foreign is not None:
        raise StropError(
            f"{output}: holds {foreign}, which strop did not write: name another directory, or "
            "remove it"
        )


def first_foreign(directory: Path) -> str | None:
    """Return the name of something in a directory that `pack` or `unpack` did not write there."""
    names = sorted(path.name for path in directory.iterdir())
    for name in names:
        if name != SINGLE and not (name.endswith(COMPANIONS) and (directory / name).is_file()):
            return name
    if not names:
        return None
    try:
        checkpoint = open_checkpoint(directory)
    except StropError:
        return names[0]
    shards = checkpoint.shards.values()
    ours = is_packed(checkpoint.config) or any(shard.writer == WRITER for shard in shards)
    return None if ours else SINGLE


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation settings; not weights, nor config.json."""
    for path in sorted(source.iterdir()):
        weights = path.name == "config.json" or path.name.endswith(".index.json")
        if path.is_file() and path.suffix in COMPANIONS and not weights:
            shutil.copyfile(path, target / path.name)


def unpack(directory: Path, output: Path) -> None:
    """Write a packed directory as an ordinary transformers directory in float32.

    float32 holds every value exactly. Raises StropError if the directory is not a packed one, and
    for an `output` that `pack` would not replace either.
    """
    checkpoint = open_checkpoint(directory)
    check_output(output, directory)
    if not is_packed(checkpoint.config):
        raise StropError(f"{directory}: not a packed model")
    quantization = checkpoint.config["quantization_config"]
    packed = packed_tensors(str(directory), quantization)
    stored = {f"{name}_{part}" for name in packed for part in ("codes", "scales", "tensor_scale")}
    kept = [name for name in checkpoint.names if name not in stored]
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (checkpoint.dtype(name), checkpoint.shape(name)) for name in kept
    }
    for name, (_, columns) in packed.items():
        layout[name] = ("F32", (packed_rows(checkpoint, name), columns))
    weights = sum(math.prod(shape) for _, shape in layout.values())

    def values(advance: Callable[[float], None]) -> Iterator[NDArray[Any]]:
        for name, (_, shape) in layout.items():
            if name in packed:
                yield dequantize(read_packed(checkpoint, name, *packed[name]))
            else:
                yield checkpoint.stored(name)
            advance(math.prod(shape))

    with atomic_path(output) as partial:
        partial.mkdir()
        copy_companions(checkpoint.directory, partial)
        config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
        write_json(partial / "config.json", config | {"dtype": "float32"})
        with progress("unpacking", weights, "weights") as advance:
            write_safetensors(partial / SINGLE, layout, values(advance))
