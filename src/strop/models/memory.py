"""How much memory a model will take, from its config.json and the headers of its weights alone.

A process is predicted at each moment when its memory could be largest, as the sum of named parts;
the largest sum is its peak. All figures are bytes that are resident, as VmHWM of proc(5) counts
them: pages of files that are mapped and were read are among them.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from strop.blockfp import Format, get_format
from strop.errors import StropError
from strop.models.architecture import FAMILIES, Architecture
from strop.models.checkpoint import Checkpoint, open_checkpoint
from strop.models.packed import check_packed, is_packed, packed_tensors, part_names
from strop.models.plan import stored_bits

MIB = 1 << 20

#: What is resident before a model is opened, measured: Python 3.11, PyTorch 2.13, transformers 5.23
#: for processors only, on x86.
LIBRARIES = {"native": 42 * MIB, "torch": 258 * MIB, "training": 272 * MIB}
TORCHAO = 100 * MIB  #: measured; transformers imports it where it is installed
TOKEN = 1070  #: bytes for each token of a vocabulary in the tokenizer, measured with 49,152

# As in native/: rows at once, padding of keys, queries worked on together, panels, tiles.
ROWS, KEYS_PAD, QUERIES, PANEL, TILE = 264, 64, 6, 16, 32
WIDENED = 1024  #: bytes of scratch for each tile of a row
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
FLOAT = 4
WIDTHS = {"F32": FLOAT, "BF16": 2}  #: bytes of the types that a network is held in


@dataclass(frozen=True)
class Tensor:
    """A tensor as a file holds it."""

    shape: tuple[int, ...]
    dtype: str  #: as safetensors names it; "U8" if packed
    stored: int  #: bytes
    format: Format | None = None  #: if packed

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return prod(self.shape)

    def held(self, dtype: str) -> int:
        """Return the bytes in memory where plain tensors are held in a type, packed as stored."""
        if self.format is not None or self.dtype == dtype:
            return self.stored
        return self.size * WIDTHS[dtype]


@dataclass(frozen=True)
class ModelFacts:
    """What a prediction needs to know of a model."""

    architecture: Architecture
    tensors: Mapping[str, Tensor]  #: those that the network has

    @property
    def weights(self) -> int:
        """Return the number of weights."""
        return sum(one.size for one in self.tensors.values())

    @property
    def stored(self) -> int:
        """Return the bytes of the weights in their files."""
        return sum(one.stored for one in self.tensors.values())

    @property
    def packed(self) -> bool:
        """Tell whether there are weights in a block format."""
        return any(one.format for one in self.tensors.values())

    @property
    def head(self) -> Tensor:
        """Return the head's matrix, which may be the embedding's."""
        name = "model.embed_tokens.weight" if self.architecture.tied else "lm_head.weight"
        return self.tensors[name]

    @property
    def tokenizer(self) -> int:
        """Return the bytes that the tokenizer takes."""
        return TOKEN * self.architecture.vocabulary

    def held(self, dtype: str) -> int:
        """Return the bytes of the weights in memory, those of plain tensors in this type."""
        return sum(one.held(dtype) for one in self.tensors.values())

    def converted(self, dtype: str) -> int:
        """Return the bytes of the files that are read into other types, and let go of then."""
        return sum(
            one.stored for one in self.tensors.values() if one.format is None and one.dtype != dtype
        )


@dataclass(frozen=True)
class Peak:
    """The most memory that a process will take."""

    moment: str  #: when that is
    parts: Mapping[str, int]  #: what takes how many bytes then

    @property
    def total(self) -> int:
        """Return the bytes of all parts."""
        return sum(self.parts.values())


def largest(moments: Mapping[str, Mapping[str, int]]) -> Peak:
    """Return the moment at which the parts add up to most; parts of nothing are left out."""
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    return Peak(moment, {name: size for name, size in moments[moment].items() if size})


def read_size(text: str) -> int:
    """Read a size such as 4GB, 3.5GiB or 800MB, in bytes; StropError for anything else."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)", text.strip(), re.ASCII)
    if found and found[2] in UNITS and (size := int(float(found[1]) * UNITS[found[2]])):
        return size
    raise StropError(f"{text!r:.40} is not a size: write such as 4GB, 3.5GiB or 800MB")


def gigabytes(size: float) -> str:
    """Format a size with the two decimals that a comparison of sizes needs."""
    return f"{size / 1e9:.2f} GB"


def nothing_fits(peaks: Iterable[Peak], budget: int) -> str:
    """Say what the smallest of some settings needs."""
    least = min(peak.total for peak in peaks)
    return (
        f"fits into {gigabytes(budget)} in no setting: the smallest needs about {gigabytes(least)}"
    )


def read_facts(directory: Path) -> ModelFacts:
    """Read config.json and the headers of the weights of a model directory, plain or packed.

    Raises StropError for an architecture that is not known here, and for damaged or missing files.
    """
    checkpoint = open_checkpoint(directory)
    where = directory / "config.json"
    family = checkpoint.config.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise StropError(f"{where}: memory is predicted for {known}, not for {family!r:.40}")
    architecture = Architecture.parse(checkpoint.config, str(where))
    formats: dict[str, tuple[Format, int]] = {}
    if is_packed(checkpoint.config):
        check_packed(checkpoint)
        formats = packed_tensors(str(directory), checkpoint.config["quantization_config"])
    if "lm_head.weight" in checkpoint.shards or "lm_head.weight" in formats:
        architecture = replace(architecture, tied=False)
    tensors = {
        name: stored_tensor(checkpoint, name, formats.get(name), shape)
        for name, shape in architecture.shapes().items()
    }
    return ModelFacts(architecture, tensors)


def stored_tensor(
    checkpoint: Checkpoint, name: str, packed: tuple[Format, int] | None, shape: tuple[int, ...]
) -> Tensor:
    """Return what a header says of a tensor; StropError if its shape is not the network's."""
    if packed:
        format, _ = packed
        stored = sum(checkpoint.entry(part).size for part in part_names(name, format))
        return Tensor(shape, "U8", stored, format)
    entry = checkpoint.entry(name)
    if entry.shape != shape:
        raise StropError(
            f"{checkpoint.directory}: {name} is {entry.shape}, config.json asks for {shape}"
        )
    return Tensor(shape, entry.dtype, entry.size)


def packed_as(facts: ModelFacts, name: str) -> ModelFacts:
    """Return what the model would be with all matrices in a format."""
    format = get_format(name)
    tensors = {
        key: Tensor(one.shape, "U8", stored_bits(one.shape, format) // 8, format)
        if len(one.shape) == 2
        else one
        for key, one in facts.tensors.items()
    }
    return replace(facts, tensors=tensors)


def libraries(kind: str) -> int:
    """Return the bytes of what is imported: "native", "torch" or "training"."""
    torchao = kind != "native" and importlib.util.find_spec("torchao") is not None
    return LIBRARIES[kind] + (TORCHAO if torchao else 0)


def native_peak(facts: ModelFacts, context: int, kv: str = "fp16", threads: int = 1) -> Peak:
    """Predict generation on the native engine up to `context` tokens, prompt and answer."""
    always = {"libraries": libraries("native"), "tokenizer": facts.tokenizer}
    weights = {"weights": sum(map(tiled, facts.tensors.values()))}
    return largest(
        {
            "loading": always | weights | {"file": facts.stored},  # while it is rearranged
            "generating": always
            | weights
            | {
                "keys and values": context * native_token(facts.architecture, kv),
                "buffers": native_buffers(facts.architecture, context, threads),
            },
        }
    )


def tiled(tensor: Tensor) -> int:
    """Return the bytes of a tensor in the engine."""
    from strop.models.native_backend import tiled_bytes

    if tensor.format is None:
        return FLOAT * tensor.size
    rows, columns = tensor.shape
    return tiled_bytes(tensor.format, rows, columns)


def native_token(a: Architecture, kv: str) -> int:
    """Return the bytes that the keys and values of a token take, see native/cache.cpp."""
    numbers = a.head_dim + padded(a.head_dim, PANEL)
    scales = 2 * FLOAT * padded(a.head_dim, TILE) // TILE
    return a.layers * a.kv_heads * (2 * numbers if kv == "fp16" else numbers + scales)


def native_buffers(a: Architecture, context: int, threads: int) -> int:
    """Return the bytes that a pass works in, see native/buffers.hpp, and those of its logits."""
    hidden, inner = padded(a.hidden, TILE), padded(a.inner, TILE)
    attended = padded(a.heads * a.head_dim, TILE)
    qkv = padded(a.heads * a.head_dim, PANEL) + 2 * padded(a.kv_heads * a.head_dim, PANEL)
    floats = 3 * hidden + qkv + attended + 3 * inner + 2 * len(a.rope.frequencies)
    codes = (hidden + attended + inner) * (TILE + 4 * FLOAT) // TILE
    scores = threads * QUERIES * (padded(context, KEYS_PAD) + KEYS_PAD) * FLOAT
    scratch = threads * WIDENED * max(hidden, attended, inner) // TILE
    logits = 2 * FLOAT * a.vocabulary
    return min(context, ROWS) * (FLOAT * floats + codes) + scores + scratch + logits


def torch_peak(facts: ModelFacts, context: int) -> Peak:
    """Predict generation on PyTorch, in float32, from a plain model; most are in the prompt."""
    a = facts.architecture
    always = {
        "libraries": libraries("torch"),
        "tokenizer": facts.tokenizer,
        "weights": facts.held("F32"),
    }
    return largest(
        {
            "loading": always | {"file": facts.converted("F32")},
            "generating": always
            | {
                "keys and values": context * torch_token(a),
                "activations": context * (3 * a.inner + a.hidden) * FLOAT,  # of one layer
            },
        }
    )


def torch_token(a: Architecture) -> int:
    """Return the bytes that the keys and values of a token take in PyTorch."""
    return 2 * FLOAT * a.layers * a.kv_heads * a.head_dim


def padded(size: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-size // step) * step
