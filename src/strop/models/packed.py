"""The packed directory: which tensor is in which format, and where its parts are.

A packed tensor `x.weight` is stored as `x.weight_codes`, `x.weight_scales` and, where the format
has one, `x.weight_tensor_scale`. `config.json` names the format of each, and describes the formats
in full, so that a file is never decoded by a table that it was not made with. The layout is
documented in docs/reference/packed-layout.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.blockfp import FORMATS, BlockTensor, Format
from strop.errors import StropError
from strop.models.checkpoint import Checkpoint

METHOD = "strop"
LAYOUT = 1  #: version of the layout

#: kind of a tensor -> parts of names that say so, in the order in which they are tried
KINDS = {
    "norm": ("norm",),
    "embedding": ("embed_tokens", "wte", "word_embeddings"),
    "head": ("lm_head", "embed_out"),
    "attention": ("self_attn", "attention", ".attn."),
    "mlp": (".mlp.", "feed_forward", ".ffn."),
}


def tensor_kind(name: str) -> str:
    """Return what a tensor is for: embedding, head, attention, mlp, norm or other."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return "other"


def part_names(name: str, format: Format) -> list[str]:
    """Return the names under which the parts of a packed tensor are stored."""
    parts = ["codes", "scales", "tensor_scale"] if format.has_tensor_scale else ["codes", "scales"]
    return [f"{name}_{part}" for part in parts]


def part_layout(
    name: str, shape: tuple[int, ...], format: Format
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the stored types and shapes of the parts of a tensor of shape (rows, cols)."""
    rows, cols = shape
    blocks = -(-cols // format.block)
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("U8", (format.planes * rows, -(-cols * format.plane_bits // 8))),
        ("U8", (rows, blocks * format.scale_bytes)),
        ("F32", ()),
    ]
    return dict(zip(part_names(name, format), shapes, strict=False))


def describe(format: Format) -> dict[str, Any]:
    """Describe a format for config.json, enough to decode it."""
    description = {
        "block": format.block,
        "code_bits": format.code_bits,
        "scale": format.scale.value,
        "values": [None if value != value else value for value in format.values],
    }
    return description | ({"upper": format.upper.name} if format.upper else {})


def quantization_config(
    format: str, source: str, tensors: Mapping[str, Format], columns: Mapping[str, int]
) -> dict[str, Any]:
    """Build what config.json says about the packing."""
    return {
        "quant_method": METHOD,
        "layout": LAYOUT,
        "format": format,
        "source": source,
        "formats": {row.name: describe(row) for row in {*tensors.values()}},
        "tensors": {
            name: {"format": row.name, "columns": columns[name]} for name, row in tensors.items()
        },
    }


def is_packed(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json belongs to a packed directory."""
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == METHOD


def packed_tensors(where: str, quantization: Mapping[str, Any]) -> dict[str, tuple[Format, int]]:
    """Return format and number of columns of each packed tensor.

    Raises StropError, beginning with `where`, if the layout is a later one or a format is not the
    one that this version knows by the name.
    """
    if quantization.get("layout") != LAYOUT:
        raise StropError(
            f"{where}: packed with layout {quantization.get('layout')!r}, this version of strop "
            f"reads layout {LAYOUT}: pack the model again"
        )
    described, tensors = quantization.get("formats"), quantization.get("tensors")
    if not isinstance(described, dict) or not isinstance(tensors, dict):
        raise StropError(f"{where}: quantization_config has no formats or no tensors")
    for name, description in described.items():
        if name not in FORMATS or describe(FORMATS[name]) != description:
            raise StropError(
                f"{where}: its format {name!r} is not as this version of strop knows it: pack the "
                "model again"
            )
    result = {}
    for tensor, entry in tensors.items():
        format: Any = entry.get("format") if isinstance(entry, dict) else None
        columns: Any = entry.get("columns") if isinstance(entry, dict) else None
        known = isinstance(format, str) and format in described
        if not known or not isinstance(columns, int) or columns < 1:
            raise StropError(f"{where}: tensor {tensor}: bad format or columns")
        result[tensor] = (FORMATS[format], columns)
    return result


def packed_rows(checkpoint: Checkpoint, name: str) -> int:
    """Return the number of rows of a packed tensor."""
    shape = checkpoint.shape(f"{name}_scales")
    return shape[0] if shape else 0


def check_parts(checkpoint: Checkpoint, name: str, format: Format, columns: int) -> None:
    """Raise StropError if a part of a packed tensor has not the type and shape of its format."""
    layout = part_layout(name, (packed_rows(checkpoint, name), columns), format)
    for part, (dtype, shape) in layout.items():
        if (checkpoint.dtype(part), checkpoint.shape(part)) != (dtype, shape):
            raise StropError(
                f"{checkpoint.directory}: {part} is {checkpoint.dtype(part)} "
                f"{checkpoint.shape(part)}, {format.name} needs {dtype} {shape}"
            )


def check_packed(checkpoint: Checkpoint) -> None:
    """Raise StropError unless everything that config.json says is packed is there and whole."""
    quantization = checkpoint.config["quantization_config"]
    packed = packed_tensors(str(checkpoint.directory), quantization)
    for name, (format, columns) in packed.items():
        check_parts(checkpoint, name, format, columns)


def read_packed(checkpoint: Checkpoint, name: str, format: Format, columns: int) -> BlockTensor:
    """Read a packed tensor. Raises StropError as `check_parts` does."""
    check_parts(checkpoint, name, format, columns)
    shape = (packed_rows(checkpoint, name), columns)
    parts: list[NDArray[Any]] = [checkpoint.read(part) for part in part_names(name, format)]
    whole = np.float32(parts[2]) if format.has_tensor_scale else np.float32(1)
    return BlockTensor(format, shape, parts[0], parts[1], whole)
