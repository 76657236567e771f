"""GGUF files into transformers directories: names, shapes and configuration, all or an error.

Names follow "Standardized tensor names" in the GGUF specification. Whatever a file says that is not
understood here is an error: a model that is converted half would still run, and be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.console import progress
from strop.data import write_json
from strop.models.checkpoint import write_safetensors
from strop.models.gguf_config import ARCHITECTURES, Architecture, read_config, token_ids
from strop.models.gguf_file import GGUFFile, Tensor, dequantize
from strop.models.gguf_tokenizer import write_tokenizer

CHUNK = 1 << 24  # weights dequantized at a time

#: Element types that safetensors holds as they are; the others become F32.
KEPT = ("F32", "F16", "BF16")


#: Leaf names inside a block: GGUF -> transformers.
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QK_NORMS = ("attn_q_norm", "attn_k_norm")
QKV = ("attn_q", "attn_k", "attn_v")
ATTENTION = (*QKV, "attn_output")
MLP = ("ffn_gate", "ffn_up", "ffn_down")


def convert_gguf(path: Path, directory: Path) -> None:
    """Write config.json, generation_config.json, the tokenizer and model.safetensors.

    `directory` must exist. Raises StropError, naming the file, when something in it is broken, or
    is not understood.
    """
    file = GGUFFile(path)
    name = file.required("general.architecture", str)
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise file.error(f"architecture {name} is not supported, only {known}")
    config = read_config(file, name)
    expected = expected_tensors(ARCHITECTURES[name], config)
    check_tensors(file, expected)
    write_tokenizer(file, directory, config["vocab_size"])
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", token_ids(file))
    write_tensors(file, directory / "model.safetensors", config, expected)


def expected_tensors(
    architecture: Architecture, config: dict[str, Any]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return what a whole model has: GGUF name -> (transformers name, shape)."""
    hidden, inner, vocabulary = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    head = config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    if architecture.qk_norm:
        shapes |= dict.fromkeys(QK_NORMS, (head,))
    biased = set(ATTENTION if config["attention_bias"] else ())
    biased = set(QKV) if architecture.qkv_bias else biased
    biased |= set(MLP if config["mlp_bias"] else ())
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (vocabulary, hidden)),
        "output_norm.weight": ("model.norm.weight", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        expected["output.weight"] = ("lm_head.weight", (vocabulary, hidden))
    for block in range(config["num_hidden_layers"]):
        for leaf, shape in shapes.items():
            source, target = f"blk.{block}.{leaf}", f"model.layers.{block}.{BLOCK[leaf]}"
            expected[f"{source}.weight"] = (f"{target}.weight", shape)
            if leaf in biased:
                expected[f"{source}.bias"] = (f"{target}.bias", shape[:1])
    return expected


def check_tensors(file: GGUFFile, expected: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check that the file has exactly the tensors of the model, in the right shapes."""
    if missing := sorted(expected.keys() - file.tensors.keys()):
        raise file.error(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if extra := sorted(file.tensors.keys() - expected.keys() - {"rope_freqs.weight"}):
        raise file.error(f"{len(extra)} tensors are not understood, the first is {extra[0]}")
    for name, (_, shape) in expected.items():
        if file.tensors[name].shape != shape:
            raise file.error(f"tensor {name} is {file.tensors[name].shape}, expected {shape}")


def write_tensors(
    file: GGUFFile,
    path: Path,
    config: dict[str, Any],
    expected: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    """Write model.safetensors, dequantizing a piece of a tensor at a time."""
    heads = permuted_heads(ARCHITECTURES[config["model_type"]], config)
    layout = {
        target: (stored_as(file.tensors[source]), shape)
        for source, (target, shape) in expected.items()
    }
    total = sum(math.prod(shape) for _, shape in layout.values())
    with progress("converting", total, "weights") as advance:

        def chunks() -> Iterator[NDArray[Any]]:
            for source in expected:
                leaf = source.split(".")[-2]
                for chunk in pieces(file, file.tensors[source], heads.get(leaf)):
                    yield chunk
                    advance(chunk.nbytes // np.dtype(np.float32).itemsize)

        write_safetensors(path, layout, chunks())


def permuted_heads(architecture: Architecture, config: dict[str, Any]) -> dict[str, int]:
    """Return the leaves whose rows are in llama.cpp's rotary layout, with their heads."""
    if not architecture.permuted:
        return {}
    return {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}


def stored_as(tensor: Tensor) -> str:
    """Return the safetensors element type for a tensor."""
    return tensor.kind if tensor.kind in KEPT else "F32"


def pieces(file: GGUFFile, tensor: Tensor, heads: int | None) -> Iterator[NDArray[Any]]:
    """Yield a tensor in pieces: bytes of a type that is kept, float32 of any other.

    With `heads`, rows are taken back from llama.cpp's rotary layout, see `rotary_order`.
    """
    rows = file.rows(tensor)
    if heads is not None and len(tensor.shape) == 1:
        # A bias is one row of numbers; here each of them moves like a row of the weight.
        rows = rows.reshape(tensor.shape[0], -1)
    order = np.arange(len(rows)) if heads is None else rotary_order(len(rows), heads)
    step = max(1, CHUNK // tensor.shape[-1])
    for start in range(0, len(rows), step):
        piece = rows[order[start : start + step]]
        yield piece if tensor.kind in KEPT else dequantize(piece, tensor.kind)


def rotary_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Return where in llama.cpp's rotary layout the rows of transformers' are.

    There the two halves of a head alternate, here they follow each other.
    """
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
