"""Small language models from scratch, of the shapes that mixtures are tried with.

All are Llamas of transformers, with heads of 32 numbers and an embedding that is also the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from strop.data import atomic_path
from strop.errors import unknown_name
from strop.models.packing import copy_companions
from strop.models.torch_backend import quietly
from strop.training.corpus import Corpus

HEAD = 32  #: numbers of an attention head


@dataclass(frozen=True)
class Shape:
    """The shape of a network."""

    layers: int
    hidden: int
    inner: int  #: of the gated layers

    @property
    def weights(self) -> int:
        """Return the number of weights without the embedding."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner + 2 * self.hidden)


#: By the number of weights without the embedding, of which there are vocabulary x hidden more.
SHAPES = {
    "0.2M": Shape(4, 64, 192),
    "0.5M": Shape(4, 96, 288),
    "1M": Shape(5, 128, 352),
    "3M": Shape(6, 192, 544),
    "6M": Shape(7, 256, 704),
    "10M": Shape(8, 320, 832),
    "20M": Shape(11, 384, 1024),
}


def shape_of(name: str) -> Shape:
    """Return a shape by its name. Raises StropError for one that is not known."""
    if name not in SHAPES:
        raise unknown_name("size", name, SHAPES)
    return SHAPES[name]


def write_proxy(shape: Shape, corpus: Corpus, context: int, seed: int, directory: Path) -> None:
    """Write a model directory with random weights, unless it is there; equal seeds, equal bytes."""
    if directory.exists():
        return
    config = transformers.LlamaConfig(
        vocab_size=corpus.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD,
        num_key_value_heads=shape.hidden // HEAD,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.5 * shape.hidden**-0.5,  # 0.02 is meant for 600, and slow here
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.LlamaForCausalLM(config)
    with atomic_path(directory) as partial, quietly():
        network.save_pretrained(partial)
        copy_companions(corpus.tokenizer, partial)
