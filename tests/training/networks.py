"""Small networks and groups for the tests of training and tuning."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from strop.training import attention
from strop.training.lora import LoraLinear
from strop.training.sequences import Group, Tokens

SIZES: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def llama(tied: bool = True) -> Any:
    """Return a random two-layer network with grouped attention heads."""
    torch.manual_seed(0)
    return grouped(LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)))


def qwen_with_window(window: int) -> Any:
    """Return one whose last layer sees so many tokens."""
    torch.manual_seed(0)
    types = ["full_attention", "sliding_attention"]
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=window, layer_types=types)
    return grouped(Qwen2ForCausalLM(config))


def grouped(network: Any) -> Any:
    """Let a network attend in groups."""
    network.set_attn_implementation(attention.NAME)
    return network


def some_tokens(random: np.random.Generator, most: int = 9) -> Tokens:
    """Return a few random tokens."""
    return tuple(int(one) for one in random.integers(3, 260, random.integers(1, most)))


def some_groups(count: int, seed: int = 0) -> list[Group]:
    """Return groups with one to four completions."""
    random = np.random.default_rng(seed)
    return [
        Group(
            some_tokens(random, 20),
            tuple(some_tokens(random) for _ in range(random.integers(1, 5))),
        )
        for _ in range(count)
    ]


def merged(layer: LoraLinear) -> torch.Tensor:
    """Return W + scale B A in float32."""
    return layer.weight(torch.float32) + layer.scale * (layer.lora_B @ layer.lora_A).float()
