"""Packing a model into block formats, and back."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.blockfp import BlockTensor, Format, dequantize, quantize
from strop.console import progress, say
from strop.data import atomic_path, write_json
from strop.errors import StropError
from strop.models.calibration import open_calibration
from strop.models.checkpoint import (
    SINGLE,
    WRITER,
    Checkpoint,
    open_checkpoint,
    write_safetensors,
)
from strop.models.compensation import check_compensable, compensated
from strop.models.machine import enough_memory
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
from strop.models.plan import Plan, check_bits, chosen_formats, formats_within
from strop.models.references import resolve
from strop.models.sensitivity import sensitivities

#: Files that go along with the weights, by their ending
CONFIG, MANIFEST = "config.json", "manifest.json"
COMPANIONS = (".json", ".jinja", ".model", ".txt")


def pack(
    reference: str,
    format: str | None,
    output: Path,
    overrides: Mapping[str, str] | None = None,
    *,
    calibrate: bool = False,
    text: str | None = None,
    bits: float | None = None,
) -> PackSummary:
    """Pack all matrices of a model, embedding and head included, into a directory.

    `format` is a number format, or two joined by a plus sign, the second for embedding and head.
    With `bits` instead, each matrix takes the format that serves the model best while all weights
    take at most so many bits each. Vectors (norms, biases) are kept. `overrides` maps patterns of
    tensor names, such as "*.down_proj.weight", to a format or "keep"; the last one that matches
    holds.

    With `calibrate` rounding makes up for its own errors on text that the model writes itself, or
    on `text`; so it does with `text` or `bits` alone. That needs PyTorch.

    The directory appears when it is whole, and replaces one that is there if Strop wrote it and
    nobody put anything beside. Raises StropError: unknown format, a pattern that matches no matrix,
    a source that is packed already, and a directory that is not to be replaced.
    """
    start = time.monotonic()
    if (format is None) == (bits is None):
        raise StropError("packing takes either a format or a number of bits per weight")
    if bits is not None and not math.isfinite(bits):
        raise StropError(f"the number of bits per weight must be finite, not {bits}")
    name = format if format is not None else f"{bits:g}bits"
    plan = Plan.parse(format) if format is not None else None
    checkpoint = open_checkpoint(resolve(reference))
    check_output(output, checkpoint.directory)
    if "quantization_config" in checkpoint.config:
        raise StropError(f"{reference}: is quantized already: pack the model that it was made from")
    chosen = chosen_formats(checkpoint, plan, overrides or {})
    ready: dict[str, BlockTensor] = {}
    calibration = None
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names}
    tensors: list[PackedTensor] = []
    if bits is not None:
        check_bits(checkpoint, bits, chosen)
    with atomic_path(output) as partial:
        partial.mkdir()
        if calibrate or text is not None or bits is not None:
            check_compensable(format for format in chosen.values() if format)
            with enough_memory(
                f"{reference}: not enough memory to calibrate: free some, or pack it in a format "
                "without calibrating"
            ):
                calibration = open_calibration(checkpoint.directory, text)
                if bits is not None:
                    chosen = formats_within(checkpoint, bits, sensitivities(calibration), chosen)
                ready = compensated(calibration, packed_formats(chosen))
            if plain := sorted(packed_formats(chosen).keys() - ready.keys()):
                say(f"rounded without making up for it, as no layer multiplies by them: {plain}")
        formats = packed_formats(chosen)
        layout = packed_layout(checkpoint, formats)
        companions = copy_companions(checkpoint.directory, partial)
        columns = {name: shapes[name][1] for name in formats}
        quantization = quantization_config(name, reference, formats, columns)
        if calibration is not None:
            quantization["calibration"] = calibration.describe()
        config = checkpoint.config | {"quantization_config": quantization}
        write_json(partial / CONFIG, config)
        weights = sum(math.prod(shape) for shape in shapes.values())
        with progress(f"packing as {name}", weights, "weights") as advance:
            parts = packed_parts(checkpoint, formats, ready, tensors, advance)
            write_safetensors(partial / SINGLE, layout, parts, companions)
    packed_bits = sum(row.bits_per_weight * row.weights for row in tensors)
    return PackSummary(
        format=name,
        weights=weights,
        bits_per_weight=packed_bits / weights,
        source_bytes=sum(checkpoint.entry(name).size for name in shapes),
        packed_bytes=round(packed_bits / 8),
        seconds=time.monotonic() - start,
        tensors=tuple(tensors),
        calibration_tokens=calibration.tokens.numel() if calibration is not None else 0,
    )


def packed_formats(chosen: Mapping[str, Format | None]) -> dict[str, Format]:
    """Return the formats of the matrices that are not kept."""
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
    ready: Mapping[str, BlockTensor],
    tensors: list[PackedTensor],
    advance: Callable[[float], None],
) -> Iterator[NDArray[Any]]:
    """Yield the stored parts of each tensor in order of name, and note what became of it.

    What is not `ready` is rounded to the nearest values.
    """
    for name in checkpoint.names:
        shape, kind = checkpoint.shape(name), tensor_kind(name)
        if name in formats:
            values = checkpoint.read(name).astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise StropError(f"{checkpoint.directory}: {name} holds NaN or infinity")
            block = ready[name] if name in ready else quantize(values, formats[name])
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
            values = checkpoint.read(name).astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise StropError(f"{checkpoint.directory}: {name} holds NaN or infinity")
            yield stored
            bits = 8 * stored.itemsize
            signal = power(values)
            tensors.append(PackedTensor(name, kind, dtype, shape, bits, signal, 0.0))
        advance(math.prod(shape))


def power(values: NDArray[np.float32]) -> float:
    """Return the sum of squares, computed in float64."""
    wide = values.ravel().astype(np.float64)
    return float(wide @ wide)


def check_output(output: Path, source: Path) -> None:
    """Raise StropError unless `output` is free, or a model directory that Strop wrote.

    Nothing that somebody else put somewhere is destroyed, and never the source.
    """
    place = replaceable(output, source)
    foreign = first_foreign(place) if place.exists() else None
    if foreign is not None:
        raise StropError(
            f"{output}: holds {foreign}, which is not of a model that strop wrote: name another "
            "directory, or remove it"
        )


def replaceable(output: Path, source: Path) -> Path:
    """Return where `output` leads; StropError for a file, and what holds the source or the user."""
    place = Path(os.path.realpath(output))  # resolve() fails on a link to itself
    if source.resolve().is_relative_to(place):
        raise StropError(f"{output}: would replace the source: name another directory")
    if Path.cwd().is_relative_to(place):
        raise StropError(f"{output}: would replace the current directory: name another one")
    if place.exists() and not place.is_dir():
        raise StropError(f"{output}: is a file: name a directory")
    return place


def first_foreign(directory: Path) -> str | None:
    """Return the name of something in a directory that `pack` or `unpack` did not write there."""
    names = sorted(path.name for path in directory.iterdir())
    if not names:
        return None
    if not all((directory / name).is_file() for name in (SINGLE, CONFIG)):
        return names[0]
    try:
        shard = open_checkpoint(directory).shards.values()
    except StropError:
        return names[0]
    written = {name for one in shard if one.writer == WRITER for name in one.companions}
    foreign = [name for name in names if name not in written | {SINGLE, CONFIG}]
    return next(iter(foreign), None if written else SINGLE)


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy tokenizer, chat template and generation settings; not weights, nor config.json.

    A manifest says how the source was made, and stays with it.

    Returns the names of the files.
    """
    found = []
    for path in sorted(source.iterdir()):
        own = path.name in (CONFIG, MANIFEST) or path.name.endswith(".index.json")
        if path.is_file() and path.suffix in COMPANIONS and not own:
            shutil.copyfile(path, target / path.name)
            found.append(path.name)
    return found


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
        companions = copy_companions(checkpoint.directory, partial)
        config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
        write_json(partial / CONFIG, config | {"dtype": "float32"})
        with progress("unpacking", weights, "weights") as advance:
            write_safetensors(partial / SINGLE, layout, values(advance), companions)
