"""Draft heads: small networks that guess what a model will say, from its state.

A head is a directory of its own: config.json, and model.safetensors with packed matrices. From the
state h of a model (what its own head multiplies) and the token x that was chosen from it,

    y = h + fuse [norm(embedding(x)); norm(h)]
    y = y + down (silu(gate norm(y)) * up norm(y))
    next state = norm(y),  logits = head next state

with a row of logits for each token that it can guess. Fed with its own state and guess, it guesses
further. (A recurrent head of this kind: Wertheimer et al. 2024, arXiv 2404.19124; embeddings beside
states: Li et al. 2024, arXiv 2401.15077.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop import _native
from strop.blockfp import get_format, quantize
from strop.blockfp.tensor import layout
from strop.data import atomic_path, read_json, write_json
from strop.errors import StropError
from strop.models.checkpoint import SINGLE, open_checkpoint, write_safetensors
from strop.models.machine import thread_count
from strop.models.native_backend import NativeModel
from strop.models.packed import (
    check_packed,
    is_packed,
    packed_tensors,
    part_layout,
    quantization_config,
    read_packed,
)

MATRICES = ("fuse", "gate", "up", "down", "head")
NORMS = ("token_norm", "state_norm", "mlp_norm", "final_norm")
TOKENS = "tokens"  #: of the rows of `head`
TYPE = "strop_draft_head"  #: model_type in config.json

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class DraftHead:
    """A head, ready to step."""

    native: _native.DraftHead
    tokens: NDArray[np.int64]  #: of each output

    def step(
        self, token: int, state: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits, one for each of `tokens`, and the next state."""
        logits, after = self.native.step(token, state)
        return logits[0], after[0]


def is_draft_head(directory: Path) -> bool:
    """Tell whether a directory holds a draft head."""
    config = directory / "config.json"
    if not config.is_file():
        return False
    found = read_json(config)
    return isinstance(found, dict) and found.get("model_type") == TYPE


def write_draft_head(
    target: Path,
    weights: Weights,
    tokens: NDArray[np.int64],
    format: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a head, its matrices packed; `facts` go into config.json, under "draft"."""
    chosen = get_format(format)
    packed = {name: quantize(weights[name], chosen) for name in MATRICES}
    parts: dict[str, tuple[str, tuple[int, ...]]] = {}
    chunks: list[NDArray[Any]] = []
    for name, tensor in packed.items():
        rows, columns = tensor.shape
        parts |= part_layout(name, (rows, columns), chosen)
        whole = [np.float32(tensor.tensor_scale)] if chosen.has_tensor_scale else []
        chunks += [tensor.codes, tensor.scales, *map(np.asarray, whole)]
    for name in NORMS:
        parts[name] = ("F32", weights[name].shape)
        chunks.append(weights[name].astype(np.float32))
    parts[TOKENS] = ("I32", tokens.shape)
    chunks.append(tokens.astype(np.int32))
    columns_of = {name: tensor.shape[1] for name, tensor in packed.items()}
    quantization = quantization_config(
        format, "strop draft", dict.fromkeys(packed, chosen), columns_of
    )
    config = {"model_type": TYPE, "quantization_config": quantization, "draft": dict(facts)}
    with atomic_path(target) as partial:
        partial.mkdir()
        write_json(partial / "config.json", config)
        write_safetensors(partial / SINGLE, parts, chunks)


def open_draft_head(directory: Path, model: NativeModel) -> DraftHead:
    """Open a head for a model; StropError if it is damaged, or made for another shape."""
    checkpoint = open_checkpoint(directory)
    if not is_packed(checkpoint.config):
        raise StropError(f"{directory / 'config.json'}: not that of a draft head")
    check_packed(checkpoint)
    packed = packed_tensors(str(directory), checkpoint.config["quantization_config"])
    missing = [name for name in MATRICES if name not in packed]
    missing += [name for name in (*NORMS, TOKENS) if name not in checkpoint.shards]
    if missing:
        raise StropError(f"{directory}: no {missing[0]}: make the head again with  strop draft")
    parts: dict[str, Any] = {}
    for name in MATRICES:
        tensor = read_packed(checkpoint, name, *packed[name])
        try:
            parts[name] = _native.Matrix(
                layout(tensor.format),
                tensor.codes,
                tensor.scales,
                float(tensor.tensor_scale),
                tensor.shape[1],
                True,
                thread_count(),
            )
        except ValueError as error:
            raise StropError(f"{directory}: {name}: {error}") from error
    for name in NORMS:
        parts[name] = checkpoint.read(name).astype(np.float32)
        if parts[name].ndim != 1 or not np.isfinite(parts[name]).all():
            raise StropError(f"{directory}: {name} is not a vector of finite numbers")
    tokens = checkpoint.stored(TOKENS).astype(np.int64)
    if (
        tokens.shape != (parts["head"].rows,)
        or not 0 <= tokens[0] <= tokens[-1] < model.vocabulary
        or (np.diff(tokens) <= 0).any()
    ):
        raise StropError(f"{directory}: its tokens are not some of {model.name}, ascending")
    try:
        native = _native.DraftHead(engine=model.engine, **parts)
    except ValueError as error:
        raise StropError(f"{directory}: not made for {model.name}: {error}") from error
    return DraftHead(native, tokens)
