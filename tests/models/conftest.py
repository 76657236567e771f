"""Small GGUF files, written with the gguf library from models that transformers built."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tests.models.packed_models import FAMILIES
from tokenizers import pre_tokenizers

from strop.models import pack

CONFIGS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "smollm3": transformers.SmolLM3Config,
}
PERMUTED = ("llama", "smollm3")  # in llama.cpp's converter
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "1 2", "Ġ 1", "Â ²", "Ġ Â", "Ċ Ċ", "i n", "in g", "ã ģ", "e Ì"]

Edit = Callable[[dict[str, Any], dict[str, Any]], None]


def vocabulary() -> list[str]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]


def network_of(architecture: str, **changes: Any) -> Any:
    """A two-layer model with weights in which no two rows are alike."""
    settings: dict[str, Any] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rope_theta": 5000.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    config = CONFIGS[architecture](**settings | changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in network.parameters():
            if parameter.dim() == 1:  # norms and biases start alike: make errors visible
                parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    return network


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k: the halves of each head alternate."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape)


def model_metadata(architecture: str, config: Any) -> dict[str, Any]:
    return {
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{architecture}.rope.freq_base": 5000.0,
    }


def tokenizer_metadata() -> dict[str, Any]:
    tokens = vocabulary()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}",
    }


def quantized(values: np.ndarray, kind: str) -> np.ndarray:
    """Quantize the matrices; vectors stay F32, as in real files."""
    if values.ndim == 1 or kind == "F32":
        return values
    return np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]))


def save_gguf(
    path: Path,
    network: Any,
    architecture: str = "llama",
    kind: str = "F32",
    edit: Edit | None = None,
) -> Path:
    """Write a network as GGUF; `edit` may change metadata and tensors before they are written."""
    config = network.config
    names = gguf.get_tensor_name_map(
        {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture],
        config.num_hidden_layers,
    )
    tensors: dict[str, Any] = {}
    for name, parameter in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        values = parameter.float().numpy()
        if architecture in PERMUTED and ("q_proj" in name or "k_proj" in name):
            query = "q_proj" in name
            heads = config.num_attention_heads if query else config.num_key_value_heads
            values = permuted(values, heads)
        target = names.get_name(stem)
        tensors[f"{target}.{suffix}"] = (
            quantized(values, kind),
            kind if values.ndim > 1 else "F32",
        )
    metadata = model_metadata(architecture, config) | tokenizer_metadata()
    if edit is not None:
        edit(metadata, tensors)
    return write_parts(path, architecture, metadata, tensors)


def write_parts(
    path: Path, architecture: str, metadata: dict[str, Any], tensors: dict[str, Any]
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    kinds = gguf.GGUFValueType
    types = {str: kinds.STRING, bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32}
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, types[type(value)])
    for name, (values, stored) in tensors.items():
        raw = gguf.GGMLQuantizationType[stored]
        writer.add_tensor(name, np.ascontiguousarray(values), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def build_network() -> Callable[..., Any]:
    return network_of


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    return save_gguf


@pytest.fixture(scope="session")
def tiny_network() -> Any:
    return network_of("llama")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid llama GGUF with quantized matrices."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return save_gguf(path, tiny_network, kind="Q8_0")


@pytest.fixture(scope="session")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a random model of a family, pack it, and return the directory; each only once."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str = "llama", format: str = "bfp5") -> Path:
        if (family, format) not in made:
            directory = tmp_path_factory.mktemp(f"{family}-{format}")
            network_of(family, **FAMILIES[family]).save_pretrained(directory / "plain")
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                shutil.copyfile(tiny_model / name, directory / "plain" / name)
            pack(str(directory / "plain"), format, directory / "packed")
            made[family, format] = directory / "packed"
        return made[family, format]

    return make


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Keep conversions of these tests out of the user's cache; the real model stays there."""
    if "smollm2" not in request.fixturenames:
        monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))
