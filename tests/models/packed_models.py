"""Packed random models of every family, for the native engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from strop import _native
from strop.blockfp import FORMATS
from strop.blockfp.tensor import layout
from strop.models.native_backend import NativeModel

Packed = Callable[..., Path]  #: (family, format) -> a packed directory, see the fixture `packed`

TOKENS: list[int] = np.random.default_rng(7).integers(0, 271, 40).tolist()
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "original_max_position_embeddings": 32}
LLAMA3 |= {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

#: Each family with the switches that it has; sizes that are no multiples of a block or a tile.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 80,
        "intermediate_size": 100,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_parameters": LLAMA3,
    },
    "mistral": {"sliding_window": 5, "num_key_value_heads": 1},
    "qwen2": {"rope_parameters": YARN},
    "qwen3": {
        "head_dim": 24,
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    },
    "smollm3": {
        "num_hidden_layers": 4,
        "no_rope_layer_interval": 2,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0},
    },
}
RUN = [name for name, format in FORMATS.items() if _native.runs_format(layout(format))]


def native(directory: Path, **options: Any) -> NativeModel:
    return NativeModel("tiny", directory, **options)


def logits_of(model: NativeModel, tokens: list[int] = TOKENS) -> np.ndarray:
    return model.session().forward(tokens)


def changed(
    source: Path, target: Path, config: dict[str, Any] | None = None, **tensors: np.ndarray | None
) -> Path:
    """Copy a model directory with other settings and tensors; None removes a tensor."""
    directory = target / "model"
    shutil.copytree(source, directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    if tensors:
        stored = load_file(directory / "model.safetensors")
        for name, value in tensors.items():
            stored.pop(name, None)
            if value is not None:
                stored[name] = value
        save_file(stored, directory / "model.safetensors")
    return directory
