"""LoRA adapters in peft's files: what they say, and the low-rank matrices in them.

An adapter directory is a model reference like any other: the first time that one is resolved, its
matrices are added to those of the base (`strop.models.merging`), and the whole model is kept in the
cache.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.data import read_json
from strop.errors import StropError
from strop.models.checkpoint import Checkpoint, open_shard

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  #: peft's names
ORIGINS = "origins.json"  #: beside them: what was trained on, see strop.tuning.origins
PREFIX = "base_model.model."  #: what peft puts before the names of modules
TENSOR = re.compile(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight")
FLOATS = ("F32", "F16", "BF16")  #: element types of the matrices

#: Options of peft that change what an adapter computes, and are not read.
REFUSED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
)


@dataclass(frozen=True)
class Adapter:
    """The matrices of an adapter: W + scale B A takes the place of W."""

    base: str  #: reference to the model that it is for
    rank: int
    alpha: float
    layers: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]  #: by module: A, B

    @property
    def scale(self) -> float:
        """Return what B A is multiplied by."""
        return self.alpha / self.rank


def is_adapter(reference: str | os.PathLike[str]) -> bool:
    """Tell whether a reference is a directory with an adapter."""
    try:
        return (Path(reference).expanduser() / CONFIG).is_file()
    except RuntimeError:  # no such home directory
        return False


def read_config(directory: Path) -> dict[str, Any]:
    """Read the configuration; StropError for adapters of another kind."""
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise StropError(f"{directory}: not a LoRA adapter")
    for key in REFUSED:
        if config.get(key):
            raise StropError(f"{directory}: adapters with {key} cannot be read")
    return config


def adapter_rank(directory: Path) -> int:
    """Return the rank of an adapter."""
    rank = read_config(directory).get("r")
    if type(rank) is not int or rank < 1:
        raise StropError(f"{directory / CONFIG}: r is not a rank: {rank!r:.40}")
    return rank


def adapter_base(directory: Path) -> str:
    """Return the reference to the model that an adapter is for, which is no adapter itself."""
    base = read_config(directory).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise StropError(f"{directory / CONFIG}: no base_model_name_or_path")
    if is_adapter(base):
        raise StropError(
            f"{directory}: its base {base} is an adapter too: make a model of that first, with  "
            f"strop export {base} --as merged"
        )
    return base


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter. Raises StropError if its files are damaged, or of another kind."""
    config, rank = read_config(directory), adapter_rank(directory)
    alpha: Any = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise StropError(f"{directory / CONFIG}: lora_alpha is not a number: {alpha!r:.40}")
    shard = open_shard(directory / WEIGHTS)
    weights = Checkpoint(directory, config, dict.fromkeys(shard.entries, shard))
    layers = read_pairs(directory / WEIGHTS, weights, rank)
    return Adapter(adapter_base(directory), rank, float(alpha), layers)


def read_pairs(
    path: Path, weights: Checkpoint, rank: int
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Read A (rank, in) and B (out, rank) of each module."""
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key in weights.names:
        match, entry = TENSOR.fullmatch(key), weights.entry(key)
        if match is None or entry.dtype not in FLOATS:
            raise StropError(f"{path}: not a part of a LoRA adapter: {key} ({entry.dtype})")
        module, part = match.groups()
        if len(entry.shape) != 2 or entry.shape["AB".index(part)] != rank:
            raise StropError(f"{path}: {key} does not have rank {rank}")
        matrix = weights.read(key)
        if not np.isfinite(matrix).all():
            raise StropError(f"{path}: {key} holds NaN or infinity")
        found.setdefault(module, {})[part] = matrix
    if not found:
        raise StropError(f"{path}: no adapters in it")
    for module, parts in found.items():
        if len(parts) < 2:
            missing = "B" if "A" in parts else "A"
            raise StropError(f"{path}: {PREFIX}{module}.lora_{missing}.weight is missing")
    return {module: (parts["A"], parts["B"]) for module, parts in found.items()}
