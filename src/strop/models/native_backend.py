"""Models on the native engine: packed weights, multiplied as they are stored.

Activations are quantized to 8 bits per block of 32 on the way into each matrix, products are sums
of integers, and floats are added in a fixed order: logits have the same bits for one row or many,
for any number of threads and on any instruction set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop import _native
from strop.blockfp import Format
from strop.blockfp.tensor import instruction_set, layout
from strop.console import quantity, say
from strop.errors import StropError, unknown_name
from strop.models.architecture import Architecture
from strop.models.cache import fingerprint
from strop.models.checkpoint import Checkpoint, open_checkpoint
from strop.models.config_fields import TORCH_INSTEAD
from strop.models.interface import Logits, States, check_forward
from strop.models.machine import available_memory, enough_memory, thread_count
from strop.models.packed import check_packed, is_packed, packed_rows, packed_tensors, part_names
from strop.models.tokenizer import Tokenizer

KV_FORMATS = ("fp16", "bfp8")  #: how keys and values may be kept; the first is the default
RESIDENT_SHARE = 0.8  #: of the available memory that the weights may take
FLOATS = ("F64", "F32", "F16", "BF16")  #: stored types of vectors
HEAD = "lm_head.weight"
EVERY_ROW = np.iinfo(np.int32).max


class NativeModel:
    """A packed directory on the native engine."""

    backend = "native"

    def __init__(
        self,
        name: str,
        directory: Path,
        kv: str = KV_FORMATS[0],
        resident: bool | None = None,
        upper: bool = False,
    ) -> None:
        """Open a packed directory.

        `kv` is the format of keys and values. With `resident` the weights are copied into memory,
        arranged for the processor; without, they stay in the mapped file and are arranged again at
        every use, which is slow; None decides by the memory that is available, and says so. With
        `upper` only the upper planes of weights in nested formats are read (bfp8n: as bfp4).
        """
        if kv not in KV_FORMATS:
            raise unknown_name("format of keys and values", kv, KV_FORMATS)
        self.name = name
        self.directory = directory
        self.kv = kv
        self.upper = upper
        checkpoint = open_checkpoint(directory)
        if not is_packed(checkpoint.config):
            raise StropError(
                f"{directory}: the native engine runs packed models: make one with  "
                f"strop pack {name} -o DIRECTORY, or {TORCH_INSTEAD}"
            )
        check_packed(checkpoint)
        self.config = checkpoint.config
        self.files = checkpoint.files
        self.tokenizer = Tokenizer.from_directory(directory)
        architecture = Architecture.parse(checkpoint.config, str(directory / "config.json"))
        self.context_length = architecture.context
        self.vocabulary = architecture.vocabulary
        self.hidden = architecture.hidden
        self.engine = build_engine(checkpoint, architecture, name, resident, upper)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over the names and contents of the weight files."""
        return fingerprint(self.files)

    def session(self) -> NativeSession:
        """Open an empty sequence."""
        return NativeSession(self)

    def forward(
        self,
        sessions: Sequence[NativeSession],
        tokens: Sequence[Sequence[int]],
        last: int | None = None,
    ) -> list[Logits]:
        """Append tokens to several sessions at once, see `Model.forward`.

        Each weight is read once for all of them; the logits are those of one after another.
        """
        check_forward(self, sessions, tokens, last)
        keep = EVERY_ROW if last is None else last
        rows = [min(len(ids), keep) for ids in tokens]
        caches = [session.cache for session in sessions]
        arrays = [np.array(ids, dtype=np.int32) for ids in tokens]
        try:
            logits, states = self.engine.forward(caches, arrays, keep)
        except RuntimeError as error:  # damage in weights that are not resident shows only now
            raise StropError(f"{self.directory}: {error}") from error
        parts = [slice(end - count, end) for count, end in zip(rows, accumulate(rows), strict=True)]
        for session, part in zip(sessions, parts, strict=True):
            session.states = states[part]
        return [logits[part] for part in parts]


class NativeSession:
    """One sequence and its key-value cache."""

    def __init__(self, model: NativeModel, other: _native.Cache | None = None) -> None:
        """Open an empty sequence, or one with the tokens of another."""
        self.model = model
        self.states: States | None = None
        with enough_memory(
            f"{model.name}: no room for the keys and values of {model.context_length} tokens: "
            "lower max_position_embeddings in its config.json"
        ):
            self.cache = other.fork() if other else _native.Cache(model.engine, model.kv)

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache."""
        return self.cache.length

    def forward(self, tokens: Sequence[int], last: int | None = None) -> Logits:
        """Append tokens and return the logits of the last of them, see `Session.forward`."""
        return self.model.forward([self], [tokens], last)[0]

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll back {self.length} tokens to {length}")
        self.cache.truncate(length)

    def fork(self) -> NativeSession:
        """Return another session with the same tokens."""
        return NativeSession(self.model, self.cache)


@dataclass(frozen=True)
class Weights:
    """The tensors of a packed directory, in the forms that the engine takes."""

    checkpoint: Checkpoint
    packed: dict[str, tuple[Format, int]]  #: format and columns of each packed tensor
    shapes: dict[str, tuple[int, ...]]  #: of every tensor that the network has
    resident: bool
    threads: int
    upper: bool  #: read only the upper planes of nested formats

    def matrix(self, name: str) -> _native.Matrix:
        """Return a packed matrix; StropError names it if it cannot be multiplied."""
        format, columns = self.packed[name]
        parts: list[NDArray[Any]] = [self.checkpoint.stored(p) for p in part_names(name, format)]
        whole = float(parts[2]) if format.has_tensor_scale else 1.0
        if self.upper and format.upper:
            parts[0] = parts[0][: len(parts[1])]
            format = format.upper
        if not np.isfinite(whole):
            raise self.error(name, f"has the tensor scale {whole}")
        try:
            return _native.Matrix(
                layout(format), parts[0], parts[1], whole, columns, self.resident, self.threads
            )
        except ValueError as error:
            raise self.error(name, str(error)) from error

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a norm's weight or a bias; StropError names it if it is not finite."""
        values: NDArray[np.float32] = self.checkpoint.read(name).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise self.error(name, "holds NaN or infinity")
        return values

    def optional(self, name: str) -> NDArray[np.float32] | None:
        """Return a vector, None if this network has none of that name."""
        return self.vector(name) if name in self.shapes else None

    def error(self, name: str, problem: str) -> StropError:
        """Build the error for a tensor, which names its file."""
        return tensor_error(self.checkpoint, name, problem)


def build_engine(
    checkpoint: Checkpoint,
    architecture: Architecture,
    name: str,
    resident: bool | None,
    upper: bool,
) -> _native.Engine:
    """Check every tensor and build the network."""
    packed = packed_tensors(str(checkpoint.directory), checkpoint.config["quantization_config"])
    # As transformers does, which ties a head only if the file has none.
    if HEAD in packed or HEAD in checkpoint.shards:
        architecture = replace(architecture, tied=False)
    if upper and not any(format.upper for format, _ in packed.values()):
        raise StropError(f"{checkpoint.directory}: no weights in a nested format, such as bfp8n")
    shapes = architecture.shapes()
    check_tensors(checkpoint, packed, shapes)
    threads = thread_count()
    instruction_set()
    if resident is None:
        resident = fits(packed, shapes, name, upper)
    weights = Weights(checkpoint, packed, shapes, resident, threads, upper)
    engine = _native.Engine(
        layers=[
            build_layer(weights, f"model.layers.{index}.", window, rotary)
            for index, (window, rotary) in enumerate(
                zip(architecture.windows, architecture.rotary, strict=True)
            )
        ],
        embedding=weights.matrix("model.embed_tokens.weight"),
        head=None if architecture.tied else weights.matrix(HEAD),
        final_norm=weights.vector("model.norm.weight"),
        heads=architecture.heads,
        kv_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
        norm_epsilon=architecture.norm_epsilon,
        frequencies=np.array(architecture.rope.frequencies, dtype=np.float32),
        rotary_scale=architecture.rope.scale,
        context=architecture.context,
        threads=threads,
    )
    return engine


def build_layer(weights: Weights, prefix: str, window: int, rotary: bool) -> _native.Layer:
    """Collect the tensors of one layer, whose names begin with `prefix`."""
    attention = f"{prefix}self_attn."
    return _native.Layer(
        query=weights.matrix(f"{attention}q_proj.weight"),
        key=weights.matrix(f"{attention}k_proj.weight"),
        value=weights.matrix(f"{attention}v_proj.weight"),
        output=weights.matrix(f"{attention}o_proj.weight"),
        gate=weights.matrix(f"{prefix}mlp.gate_proj.weight"),
        up=weights.matrix(f"{prefix}mlp.up_proj.weight"),
        down=weights.matrix(f"{prefix}mlp.down_proj.weight"),
        input_norm=weights.vector(f"{prefix}input_layernorm.weight"),
        mlp_norm=weights.vector(f"{prefix}post_attention_layernorm.weight"),
        query_bias=weights.optional(f"{attention}q_proj.bias"),
        key_bias=weights.optional(f"{attention}k_proj.bias"),
        value_bias=weights.optional(f"{attention}v_proj.bias"),
        output_bias=weights.optional(f"{attention}o_proj.bias"),
        query_norm=weights.optional(f"{attention}q_norm.weight"),
        key_norm=weights.optional(f"{attention}k_norm.weight"),
        window=window,
        rotary=rotary,
    )


def check_tensors(
    checkpoint: Checkpoint,
    packed: dict[str, tuple[Format, int]],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Raise StropError unless every tensor is there, in a form and shape that the engine runs.

    What is there besides is not used, and said.
    """
    directory = checkpoint.directory
    known = checkpoint.shards.keys() | packed.keys()
    if missing := sorted(shapes.keys() - known):
        raise StropError(f"{directory}: {len(missing)} tensors are missing, such as {missing[0]}")
    for name, shape in shapes.items():
        if name in packed:
            format, columns = packed[name]
            stored: tuple[int, ...] = (packed_rows(checkpoint, name), columns)
            usable, kind = _native.runs_format(layout(format)), format.name
        else:
            stored, kind = checkpoint.shape(name), checkpoint.dtype(name)
            usable = len(shape) == 1 and kind in FLOATS
        if stored != shape:
            raise tensor_error(checkpoint, name, f"is {stored}, config.json asks for {shape}")
        if not usable:
            raise tensor_error(
                checkpoint, name, f"is in {kind}, which the engine cannot run: {TORCH_INSTEAD}"
            )
    parts = {part for name, (format, _) in packed.items() for part in part_names(name, format)}
    if unused := sorted((known - parts) - shapes.keys()):
        say(f"{directory}: {len(unused)} tensors are not used, such as {unused[0]}")


def tensor_error(checkpoint: Checkpoint, name: str, problem: str) -> StropError:
    """Build the error for a tensor, which names its file."""
    shard = checkpoint.shards.get(name) or checkpoint.shards[f"{name}_codes"]
    return StropError(f"{shard.path}: {name} {problem}")


def tiled_bytes(format: Format, rows: int, columns: int) -> int:
    """Return the bytes that a matrix takes in memory, see native/tiles.hpp."""
    bits = 4 if format.code_bits <= 4 else format.code_bits if format.code_bits <= 6 else 8
    return -(-rows // 16) * -(-columns // 32) * (64 * bits + 16 * 32 // format.block)


def fits(
    packed: dict[str, tuple[Format, int]],
    shapes: dict[str, tuple[int, ...]],
    name: str,
    upper: bool,
) -> bool:
    """Tell whether the packed weights fit into the memory that is available; say so if not."""
    needed = sum(
        tiled_bytes((format.upper if upper else None) or format, *shapes[tensor])
        for tensor, (format, _) in packed.items()
        if tensor in shapes
    )
    available = available_memory()
    if needed <= RESIDENT_SHARE * available:
        return True
    say(
        f"{name}: its weights ({quantity(needed, 'B')}) do not fit into the memory that is "
        f"available ({quantity(available, 'B')}): read from the file at every step, slowly"
    )
    return False
