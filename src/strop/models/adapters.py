"""LoRA adapters in peft's files, and the model that an adapter makes of its base.

An adapter directory is a model reference like any other: the first time that one is resolved, its
matrices are added to those of the base, and the whole model is kept in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from strop.data import read_json
from strop.errors import StropError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  #: peft's names
PREFIX = "base_model.model."  #: what peft puts before the names of modules


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
    return (Path(reference).expanduser() / CONFIG).is_file()


def read_config(directory: Path) -> dict[str, Any]:
    """Read the configuration; StropError for adapters of another kind."""
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise StropError(f"{directory}: not a LoRA adapter")
    for key in ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise StropError(f"{directory}: adapters with {key} cannot be read")
    return config


def adapter_base(directory: Path) -> str:
    """Return the reference to the model that an adapter is for."""
    base = read_config(directory).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise StropError(f"{directory / CONFIG}: no base_model_name_or_path")
    return base


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter. Raises StropError if its files are damaged, or of another kind."""
    config = read_config(directory)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise StropError(f"{directory / CONFIG}: r and lora_alpha are not a rank and a number")
    try:
        tensors = load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StropError(f"{directory / WEIGHTS}: not weights of an adapter: {error}") from error
    layers = {name: (a, b) for name, a, b in pairs(directory, tensors, rank)}
    return Adapter(adapter_base(directory), rank, float(alpha), layers)


def pairs(
    directory: Path, tensors: dict[str, Any], rank: int
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the name of each module with its A (rank, in) and B (out, rank)."""
    for key in sorted(tensors):
        name, part, tail = key.partition(".lora_A")
        if not part:
            if ".lora_B" not in key:
                raise StropError(f"{directory / WEIGHTS}: not a part of a LoRA adapter: {key}")
            continue
        other = f"{name}.lora_B{tail}"
        if other not in tensors:
            raise StropError(f"{directory / WEIGHTS}: {other} is missing")
        a, b = (tensors[one].astype(np.float32) for one in (key, other))
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise StropError(f"{directory / WEIGHTS}: {key} does not have rank {rank}")
        yield name.removeprefix(PREFIX), a, b
