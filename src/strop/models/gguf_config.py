"""What the metadata of a GGUF file say about a model, as transformers' config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from strop.models.gguf_file import GGUFFile, dequantize


@dataclass(frozen=True)
class Architecture:
    """What sets one architecture apart from the others."""

    class_name: str  #: in transformers
    permuted: bool = False  #: are the rows of q and k interleaved for llama.cpp's rotary embedding?
    qk_norm: bool = False  #: are q and k normalized per head?
    qkv_bias: bool = (
        False  #: do q, k and v always have a bias? (others have it for all four or none)
    )


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", permuted=True),  # and Mistral, SmolLM, SmolLM2, ...
    "qwen2": Architecture("Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Architecture("Qwen3ForCausalLM", qk_norm=True),
    "smollm3": Architecture("SmolLM3ForCausalLM", permuted=True),
}

#: Sizes: key of config.json -> metadata key, without the architecture's name in front.
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}

#: Metadata keys of an architecture that are understood, without its name in front.
UNDERSTOOD = {
    *SIZES.values(),
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "vocab_size",
}

#: Frequency factors of Llama 3.1 and later: (low_freq_factor, high_freq_factor, original context).
LLAMA3_SCALING = (1.0, 4.0, 8192)


def read_config(file: GGUFFile, name: str) -> dict[str, Any]:
    """Build config.json from the metadata."""
    architecture = ARCHITECTURES[name]
    unknown = {
        key
        for key in file.metadata
        if key.startswith(f"{name}.") and key.removeprefix(f"{name}.") not in UNDERSTOOD
    }
    if unknown:
        raise file.error(f"metadata not understood, so the model may be another: {sorted(unknown)}")
    sizes = {key: positive(file, f"{name}.{tail}") for key, tail in SIZES.items()}
    heads = sizes["num_attention_heads"]
    head_size = file.optional(f"{name}.attention.key_length", int, sizes["hidden_size"] // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if file.optional(f"{name}.{key}", int, head_size) != head_size:
            raise file.error(f"{name}.{key} differs from the head size {head_size}")
    if "token_embd.weight" not in file.tensors:
        raise file.error("tensor token_embd.weight is missing")
    embedding = file.tensors["token_embd.weight"]
    if sizes["num_hidden_layers"] > len(file.tensors):
        raise file.error(f"{name}.block_count is larger than the number of tensors")
    config = {
        "architectures": [architecture.class_name],
        "model_type": name,
        **sizes,
        "num_key_value_heads": positive(file, f"{name}.attention.head_count_kv", int, heads),
        "head_dim": head_size,
        "vocab_size": positive(file, f"{name}.vocab_size", int, embedding.shape[0]),
        "hidden_act": "silu",
        "rms_norm_eps": positive(file, f"{name}.attention.layer_norm_rms_epsilon", float),
        "rope_theta": positive(file, f"{name}.rope.freq_base", float, 10000.0),
        "rope_scaling": None,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "dtype": {"F16": "float16", "BF16": "bfloat16"}.get(embedding.kind, "float32"),
        **token_ids(file),
    }
    if heads % config["num_key_value_heads"]:
        raise file.error(f"{name}: {config['num_key_value_heads']} kv heads for {heads} heads")
    if head_size < 2 or head_size % 2:
        raise file.error(f"{name}: heads of size {head_size} cannot be rotated")
    config["rope_scaling"] = rope_scaling(file, name, config)
    return config


def positive(file: GGUFFile, key: str, kind: type = int, default: Any = None) -> Any:
    """Return a number above zero; without a default it must be there."""
    value = file.required(key, kind) if default is None else file.optional(key, kind, default)
    if value <= 0:
        raise file.error(f"metadata key {key} is {value}")
    return value


def token_ids(file: GGUFFile) -> dict[str, Any]:
    """Return the ids that generation needs; the end of a turn counts as an end, too."""
    ids = {
        name: file.optional(f"tokenizer.ggml.{name}_token_id", int)
        for name in ("bos", "eos", "eot", "padding")
    }
    ends = sorted({ids["eos"], ids["eot"]} - {None})
    return {
        "bos_token_id": ids["bos"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids["padding"],
    }


def rope_scaling(file: GGUFFile, name: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return how the rotary embedding is stretched beyond its trained context, if it is."""
    kind = file.optional(f"{name}.rope.scaling.type", str, "none")
    if "rope_freqs.weight" in file.tensors:
        if kind != "none":
            raise file.error(f"both rope_freqs.weight and rope scaling of type {kind}")
        return llama3_scaling(file, config)
    if kind == "none":
        return None
    if kind not in {"linear", "yarn"}:
        raise file.error(f"rope scaling of type {kind} is not supported")
    scaling = {
        "rope_type": kind,
        "factor": positive(file, f"{name}.rope.scaling.factor", float),
    }
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = positive(
            file, f"{name}.rope.scaling.original_context_length"
        )
        for key in ("beta_fast", "beta_slow"):
            value = file.optional(f"{name}.rope.scaling.yarn_{key}", float)
            scaling |= {} if value is None else {key: value}
    return scaling


def llama3_scaling(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any] | None:
    """Recover Llama 3's scaling from the factors that llama.cpp stores in its place.

    GGUF keeps one divisor per frequency. They are recomputed from the parameters that Meta has used
    so far, and must come out the same.
    """
    tensor = file.tensors["rope_freqs.weight"]
    stored = dequantize(file.rows(tensor), tensor.kind).ravel()
    half = config["head_dim"] // 2
    if stored.shape != (half,):
        raise file.error(f"rope_freqs.weight has {stored.size} factors, expected {half}")
    if np.all(stored == 1):
        return None
    low, high, context = LLAMA3_SCALING
    factor = float(stored.max())
    wavelength = 2 * math.pi * config["rope_theta"] ** (np.arange(half) / half)
    smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
    if not np.allclose(stored, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise file.error("the rotary factors in rope_freqs.weight are not those of Llama 3")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }
