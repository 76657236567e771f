"""A network that is ready to be trained: loaded, with adapters, and with grouped attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from strop.errors import StropError, unknown_name
from strop.models import resolve
from strop.models.adapters import adapter_base, is_adapter
from strop.models.checkpoint import open_checkpoint
from strop.models.packed import is_packed
from strop.models.tokenizer import Tokenizer
from strop.models.torch_backend import load_network
from strop.training import attention
from strop.training.lora import add_lora, load_adapter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class NetworkConfig:
    """How a network is held while it is trained."""

    rank: int = 8  #: of the adapters of all linear layers; 0: all weights are trained
    alpha: float = 16.0  #: adapters count alpha / rank times
    dtype: str = "float32"  #: of frozen weights and of activations; what is trained is float32
    checkpointing: bool = False  #: keep one state per layer and token, compute the rest again

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.rank < 0:
            raise StropError(f"rank must not be negative: {self.rank}")
        if not self.alpha > 0:
            raise StropError(f"alpha must be more than 0, not {self.alpha}")
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        if not self.rank and self.dtype != "float32":
            raise StropError("all weights are trained in float32 only: leave out the dtype")


@dataclass(frozen=True)
class Trainee:
    """A network in training, and what belongs to it."""

    network: Any
    tokenizer: Tokenizer
    base: str  #: reference to the model that adapters are for
    directory: Path  #: of that model
    context_length: int  #: most tokens of one sequence


def open_trainee(reference: str, config: NetworkConfig | None = None, seed: int = 0) -> Trainee:
    """Load a model to train it. A directory with an adapter is gone on with, on its own base.

    `seed` is for the first values of new adapters, which at first change nothing all the same.
    Packed weights stay packed. Raises StropError for a model that cannot be trained: one that is
    packed, without adapters; one that changes its logits after the head; capped attention.
    """
    config = config or NetworkConfig()
    adapter = Path(reference).expanduser() if is_adapter(reference) else None
    base = adapter_base(adapter) if adapter else reference
    directory = resolve(base)
    settings = open_checkpoint(directory).config
    packed = is_packed(settings)
    if not config.rank and (packed or adapter):
        what = "packed weights" if packed else "adapters"
        raise StropError(f"{reference}: {what} are trained with a rank of at least 1")
    network = load_network(directory, settings, DTYPES[config.dtype], keep_packed=packed)
    network.set_attn_implementation(attention.NAME)
    refuse_scaled_logits(network, reference)
    if adapter:
        load_adapter(network, adapter)
    elif config.rank:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            add_lora(network, config.rank, config.alpha)
    else:
        network.requires_grad_(True)
    if config.checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return Trainee(
        network,
        Tokenizer.from_directory(directory),
        base,
        directory,
        int(network.config.max_position_embeddings),
    )


def refuse_scaled_logits(network: Any, reference: str) -> None:
    """Raise StropError if logits are not just the product of the last states and the head."""
    tokens = torch.arange(1, 4)[None]
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        states = network.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        expected = network.get_output_embeddings()(states)
        same = torch.allclose(network(input_ids=tokens).logits, expected, rtol=1e-2, atol=1e-3)
    network.set_attn_implementation(attention.NAME)
    if not same:
        raise StropError(f"{reference}: its logits are scaled or capped: it cannot be trained")
