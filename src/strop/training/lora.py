"""LoRA: low-rank matrices beside frozen ones, over plain or packed weights, in peft's files.

y = W x + (alpha / rank) B A x, where only A and B are trained. (Hu et al. 2021, arXiv 2106.09685,
section 4.1.) The forward and the backward pass are written out, so that a packed W is dequantized
for each and kept for neither.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from strop.data import write_json
from strop.errors import StropError
from strop.models.adapters import CONFIG, PREFIX, WEIGHTS, read_adapter
from strop.models.huggingface import PackedLinear


class LowRank(torch.autograd.Function):  # type: ignore[misc]
    """The product of a row of inputs with W + scale B A."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, A: torch.Tensor, B: torch.Tensor, layer: LoraLinear
    ) -> torch.Tensor:
        """Multiply rows (n, in) into (n, out)."""
        A, B = A.to(x.dtype), B.to(x.dtype)
        inner = x @ A.T
        # The small product first: added to a large one that is rounded already, most of it would be
        # rounded away in bfloat16.
        y = (inner @ B.T).mul_(layer.scale)
        if layer.base.bias is not None:
            y += layer.base.bias
        ctx.save_for_backward(x, inner, A, B)
        ctx.layer = layer
        return y.addmm_(x, layer.weight(x.dtype).T)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        x, inner, A, B = ctx.saved_tensors
        layer, [g] = ctx.layer, gradients
        inner_g = (g @ B).mul_(layer.scale)
        x_g = None
        if ctx.needs_input_grad[0]:
            x_g = (inner_g @ A).addmm_(g, layer.weight(g.dtype))
        A_g = (inner_g.T @ x).to(layer.lora_A.dtype)
        B_g = (g.T @ inner).mul_(layer.scale).to(layer.lora_B.dtype)
        return x_g, A_g, B_g, None


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A frozen linear layer with an adapter, which at first changes nothing."""

    def __init__(self, base: nn.Linear | PackedLinear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha, self.scale = alpha, alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as peft does

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the frozen matrix in some type."""
        packed = isinstance(self.base, PackedLinear)
        return (self.base.rows() if packed else self.base.weight).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply the last axis."""
        rows = x.reshape(-1, x.shape[-1])
        y = LowRank.apply(rows, self.lora_A, self.lora_B, self)
        return y.view(*x.shape[:-1], -1)


def add_lora(network: Any, rank: int, alpha: float) -> list[str]:
    """Give every linear layer but the head an adapter and freeze all else; return their names."""
    network.requires_grad_(False)
    head = network.get_output_embeddings()
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | PackedLinear) and module is not head
    ]
    for name in names:
        network.set_submodule(name, LoraLinear(network.get_submodule(name), rank, alpha))
    return names


def adapters(network: Any) -> dict[str, LoraLinear]:
    """Return the layers that have an adapter, by name."""
    return {
        name: module for name, module in network.named_modules() if isinstance(module, LoraLinear)
    }


def save_adapter(network: Any, base: str, directory: Path) -> None:
    """Write the adapters into a directory as peft does; `base` is what they are adapters for."""
    layers = adapters(network)
    [(rank, alpha)] = {(one.lora_A.shape[0], one.alpha) for one in layers.values()}
    tensors = {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part).detach().cpu().contiguous()
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
    }
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    write_json(directory / CONFIG, config)


def load_adapter(network: Any, directory: Path) -> None:
    """Add the adapters of a directory, ours or peft's, to a network.

    Raises StropError for an adapter of another kind or of another network.
    """
    adapter = read_adapter(directory)
    network.requires_grad_(False)
    for name, (A, B) in adapter.layers.items():
        try:
            base = network.get_submodule(name)
        except AttributeError as error:
            raise StropError(f"{directory}: does not fit this model: {name}") from error
        if base is network.get_output_embeddings():
            raise StropError(
                f"{directory}: has an adapter of the head, which is never trained here"
            )
        sizes = (A.shape[1], B.shape[0])
        if not isinstance(base, nn.Linear | PackedLinear) or sizes != (
            base.in_features,
            base.out_features,
        ):
            raise StropError(f"{directory}: does not fit this model: {name}")
        layer = LoraLinear(base, adapter.rank, adapter.alpha)
        layer.lora_A.data, layer.lora_B.data = torch.from_numpy(A), torch.from_numpy(B)
        network.set_submodule(name, layer)
