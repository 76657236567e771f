"""Models in the shapes of Qwen2.5 with random weights, which cost an engine the same as any others.

They are drawn in float16, written a tensor at a time, and packed by both sides.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from gguf.constants import LlamaFileType

from engine_models import File, gguf_file, kept, packed_file, write_type
from strop.console import progress
from strop.data import atomic_path, remove, write_json
from strop.models import pack, resolve
from strop.models.architecture import Architecture
from strop.models.checkpoint import Checkpoint, open_checkpoint, write_safetensors
from strop.models.convert import BLOCK

TOKENIZER = "smollm2"  #: lends the files of its tokenizer, which no measure reads
DEVIATION = 0.02  #: of the weights

COMMON = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "dtype": "float16",
}
SHAPES = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}


PACKED = ("bfp4", "bfp8")
GGUF_TYPES = ("Q4_0", "Q8_0")


def random_files(size: str) -> dict[str, File]:
    """Return what each engine runs of a random model, under the names that setups go by."""
    directory = kept(f"random-{size}")
    if not directory.is_dir():
        with atomic_path(directory) as partial:
            partial.mkdir()
            source, gguf = partial / "source", partial / "source.gguf"
            random_model(size, source)
            write_gguf(source, gguf)
            for format in PACKED:
                pack(str(source), format, partial / format)
            for kind in GGUF_TYPES:
                write_type(gguf, partial / f"{kind}.gguf", kind)
            remove(source)
            remove(gguf)
    ours = {f"strop {format}": packed_file(directory / format) for format in PACKED}
    return ours | {f"llama.cpp {t}": gguf_file(directory / f"{t}.gguf") for t in GGUF_TYPES}


def random_model(size: str, target: Path) -> None:
    """Write a transformers directory with random matrices, norms of one and biases of zero."""
    config: dict[str, Any] = COMMON | SHAPES[size]
    shapes = Architecture.parse(config, size).shapes()
    random = np.random.default_rng(0)

    def tensors() -> Iterator[np.ndarray]:
        weights = sum(map(math.prod, shapes.values()))
        with progress(f"drawing {size}", weights, "weights") as advance:
            for name, shape in shapes.items():
                if len(shape) == 2:
                    yield (random.standard_normal(shape, np.float32) * DEVIATION).astype(np.float16)
                else:
                    yield np.full(shape, "norm" in name, np.float16)
                advance(math.prod(shape))

    target.mkdir()
    write_json(target / "config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(resolve(TOKENIZER) / name, target / name)
    layout = {name: ("F16", shape) for name, shape in shapes.items()}
    write_safetensors(target / "model.safetensors", layout, tensors())


def write_gguf(directory: Path, target: Path) -> None:
    """Write a random model as a GGUF file without a vocabulary; vectors must be float32."""
    checkpoint = open_checkpoint(directory)
    config = checkpoint.config
    writer = GGUFWriter(target, config["model_type"])
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    names = {name: gguf_name(name) for name in checkpoint.names}
    for name, other in names.items():
        values = stored(checkpoint, name)
        writer.add_tensor_info(other, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in names:
        writer.write_tensor_data(stored(checkpoint, name))
    writer.close()


def stored(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """Return a tensor in the type in which a GGUF file holds it."""
    values = checkpoint.stored(name)
    return values if values.ndim == 2 else values.astype(np.float32)


def gguf_name(name: str) -> str:
    """Return what GGUF calls a tensor, such as `blk.3.attn_q.bias`."""
    leaves = {f"model.layers.{{}}.{theirs}": f"blk.{{}}.{ours}" for ours, theirs in BLOCK.items()}
    leaves |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    stem, _, ending = name.rpartition(".")
    number = next((part for part in stem.split(".") if part.isdigit()), "")
    pattern = ".".join("{}" if part.isdigit() else part for part in stem.split("."))
    return f"{leaves[pattern].format(number)}.{ending}"
