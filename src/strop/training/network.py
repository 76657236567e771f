"""A network that is ready to be trained: loaded, with adapters, and with grouped attention."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from strop.errors import StropError, unknown_name
from strop.models import resolve
from strop.models.adapters import adapter_base, is_adapter
from strop.models.checkpoint import open_checkpoint
from strop.models.packed import is_packed
from strop.models.packing import copy_companions
from strop.models.tokenizer import Tokenizer
from strop.models.torch_backend import context_length, load_network, quietly
from strop.training import attention
from strop.training.lora import adapters, add_lora, load_adapter, save_adapter
from strop.training.memory import RANK
from strop.training.processes import own_device
from strop.training.scoring import completion_logps, token_logps
from strop.training.sequences import Group, Tokens, lay_out

# oneDNN keeps what it compiled for every size of a matrix, and texts have many: 1,024 of them took
# half a gigabyte, and were no faster. It is read before the first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

ALPHA = 16.0  #: of new adapters, if nothing else is said
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class NetworkConfig:
    """How a network is held while it is trained."""

    rank: int | None = None  #: of adapters (8, or what they have); 0: all weights are trained
    alpha: float | None = None  #: adapters count alpha / rank times (16, or what they have)
    #: of frozen weights and of activations (float32); what is trained is float32
    dtype: str | None = None
    checkpointing: bool | None = None  #: keep one state per layer and token, compute the rest again

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.rank is not None and self.rank < 0:
            raise StropError(f"rank must not be negative: {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise StropError(f"alpha must be more than 0, not {self.alpha}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        if self.rank == 0 and self.dtype not in (None, "float32"):
            raise StropError("all weights are trained in float32 only: leave out the dtype")


@dataclass(frozen=True)
class Source:
    """What a network is made from, before it is loaded."""

    reference: str  #: as it was given
    base: str  #: reference to the model that adapters are for; the same if there are none
    adapter: Path | None  #: that training goes on with
    directory: Path  #: of the base
    config: dict[str, Any]  #: the contents of its config.json
    tokenizer: Tokenizer
    context_length: int  #: most tokens of one sequence


@dataclass(frozen=True)
class Trainee:
    """A network in training, and what it was made from."""

    network: Any
    source: Source


def open_source(reference: str) -> Source:
    """Find a model. Raises StropError where there is none."""
    adapter = Path(reference).expanduser() if is_adapter(reference) else None
    base = adapter_base(adapter) if adapter else reference
    directory = resolve(base)
    config = open_checkpoint(directory).config
    length = context_length(directory / "config.json", config.get("max_position_embeddings"))
    tokenizer = Tokenizer.from_directory(directory)
    return Source(reference, base, adapter, directory, config, tokenizer, length)


def open_trainee(
    source: Source | str, config: NetworkConfig | None = None, seed: int = 0
) -> Trainee:
    """Load a model to train it. A directory with an adapter is gone on with, on its own base.

    `seed` is for the first values of new adapters, which at first change nothing all the same.
    Packed weights stay packed. Raises StropError for a model that cannot be trained: one that is
    packed, without adapters, and one that log-probabilities would be wrong for.
    """
    source = open_source(source) if isinstance(source, str) else source
    config, reference = config or NetworkConfig(), source.reference
    packed = is_packed(source.config)
    if config.rank == 0 and (packed or source.adapter):
        what = "packed weights" if packed else "adapters"
        raise StropError(f"{reference}: {what} are trained with a rank of at least 1")
    dtype = DTYPES[config.dtype or "float32"]
    network = load_network(source.directory, source.config, dtype, keep_packed=packed)
    network.set_attn_implementation(attention.NAME)
    without_dropout(network)
    refuse_unless_grouped(network, reference)
    if source.adapter:
        load_adapter(network, source.adapter)
        check_same(network, config, reference)
    elif config.rank == 0:
        network.requires_grad_(True)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            add_lora(network, config.rank or RANK, config.alpha or ALPHA)
    if config.checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return Trainee(network.to(own_device()), source)


def save_network(trainee: Trainee, directory: Path) -> None:
    """Write the adapter; or the whole model, if all of it was trained."""
    if adapters(trainee.network):
        base = Path(trainee.source.base).expanduser()
        reference = str(base.resolve()) if base.exists() else trainee.source.base
        save_adapter(trainee.network, reference, directory)
        return
    with quietly():
        trainee.network.save_pretrained(directory)
    copy_companions(trainee.source.directory, directory)


def without_dropout(network: Any) -> None:
    """Switch dropout off: what is compared must have been scored by one network."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # of layers that call the function
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def check_same(network: Any, config: NetworkConfig, reference: str) -> None:
    """Raise StropError if an adapter has another rank or alpha than what was asked for."""
    layer = next(iter(adapters(network).values()))
    own = {"rank": layer.lora_A.shape[0], "alpha": layer.alpha}
    for name, value in own.items():
        asked = getattr(config, name)
        if asked is not None and asked != value:
            raise StropError(f"{reference}: is an adapter of {name} {value:g}: leave out {name}")


def refuse_unless_grouped(network: Any, reference: str) -> None:
    """Raise StropError if prompts cannot be shared, or logits are not what the head gives.

    Two groups of two completions are scored together, and each alone by the network's own forward
    pass. They differ where layers mix tokens otherwise than by attention, where attention has sinks
    or caps, where the head has a bias, where logits are scaled, and where something drops out.
    """
    groups = [Group((5, 6, 7), ((8, 9), (10, 11, 12))), Group((13, 14), ((15,), (16, 17)))]
    groups = [*groups, *groups[:1]]
    with torch.no_grad(), torch.random.fork_rng():
        layout = lay_out(groups, network.device)
        found = completion_logps(token_logps(network.train(), layout), layout)
        network.eval()
        network.set_attn_implementation("sdpa")
        expected = [
            alone(network, group.prompt, one) for group in groups for one in group.completions
        ]
        network.set_attn_implementation(attention.NAME)
    tolerance = 1e-4 if network.dtype == torch.float32 else 3e-2
    if not torch.allclose(found, torch.stack(expected), rtol=tolerance, atol=tolerance):
        raise StropError(
            f"{reference}: cannot be trained: it is not only layers of attention and a plain head"
        )


def alone(network: Any, prompt: Tokens, completion: Tokens) -> torch.Tensor:
    """Return the log-probability of a completion, from the network's own logits."""
    ids = torch.tensor([[*prompt, *completion]], device=network.device)
    logits = network(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    rows = logits.float().log_softmax(-1)
    return rows.gather(1, ids[0, len(prompt) :, None]).sum()
