"""Packed models as ordinary transformers models: `import strop.models.huggingface` is enough.

The weights stay packed in memory and are dequantized at each use, so that anything built on
transformers can run a packed directory. For speed, `model.dequantize()` makes plain layers of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from strop.blockfp import BlockTensor, Format, dequantize
from strop.errors import StropError
from strop.models.packed import METHOD, packed_tensors, part_layout


class StropConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The quantization_config of a packed directory."""

    def __init__(self, **fields: Any) -> None:
        fields["quant_method"] = METHOD
        self.__dict__.update(fields)


class PackedWeight(nn.Module):  # type: ignore[misc]
    """A matrix in a block format; subclasses put it to use."""

    def __init__(self, shape: tuple[int, int], format: Format) -> None:
        super().__init__()
        self.format = format
        self.shape = shape
        types = {"U8": torch.uint8, "F32": torch.float32}
        for name, (dtype, part) in part_layout("weight", shape, format).items():
            self.register_buffer(name, torch.empty(part, dtype=types[dtype]))

    def rows(self, index: torch.Tensor | None = None) -> torch.Tensor:
        """Return the rows that a one-dimensional index names, or all, in float32."""
        codes, scales = self.weight_codes, self.weight_scales
        if index is not None:
            planes = codes.reshape(self.format.planes, -1, codes.shape[1])
            codes, scales = planes[:, index].flatten(0, 1), scales[index]
        whole = self.weight_tensor_scale if self.format.has_tensor_scale else torch.ones(())
        block = BlockTensor(
            self.format,
            (scales.shape[0], self.shape[1]),
            codes.cpu().numpy(),
            scales.cpu().numpy(),
            np.float32(whole.item()),
        )
        return torch.from_numpy(dequantize(block)).to(codes.device)


class PackedLinear(PackedWeight):
    """A linear layer with a packed weight."""

    def __init__(self, layer: nn.Linear, format: Format) -> None:
        super().__init__((layer.out_features, layer.in_features), format)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the dequantized weight, in the type of x."""
        return nn.functional.linear(x, self.rows().to(x.dtype), self.bias)

    def plain(self, dtype: torch.dtype) -> nn.Linear:
        """Return an ordinary layer with the same weight."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, dtype=dtype)
        layer.weight = nn.Parameter(self.rows().to(dtype), requires_grad=False)
        layer.bias = self.bias
        return layer


class PackedEmbedding(PackedWeight):
    """An embedding with a packed weight; only the rows that are looked up are dequantized."""

    def __init__(self, layer: nn.Embedding, format: Format, dtype: torch.dtype) -> None:
        super().__init__((layer.num_embeddings, layer.embedding_dim), format)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx = layer.padding_idx
        self.dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of some ids."""
        return self.rows(ids.flatten()).to(self.dtype).reshape(*ids.shape, self.embedding_dim)

    def plain(self, dtype: torch.dtype) -> nn.Embedding:
        """Return an ordinary embedding with the same weight."""
        layer = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, dtype=dtype)
        layer.weight = nn.Parameter(self.rows().to(dtype), requires_grad=False)
        return layer


class TiedHead(nn.Module):  # type: ignore[misc]
    """A head whose weight is that of a packed embedding."""

    def __init__(self, embedding: PackedEmbedding) -> None:
        super().__init__()
        self.embedding = (embedding,)  # in a tuple, so that its parts are not this module's too
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the dequantized embedding, in the type of x."""
        return nn.functional.linear(x, self.embedding[0].rows().to(x.dtype))


class StropQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads packed directories into transformers models."""

    requires_calibration = True  # models are packed by `strop pack`, not while they are loaded

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        packed = packed_tensors(str(model.name_or_path), vars(self.quantization_config))
        dtype = model.dtype
        with torch.device("meta"):
            for name, (format, columns) in packed.items():
                path = name.removesuffix(".weight")
                layer = model.get_submodule(path)
                if not isinstance(layer, nn.Linear | nn.Embedding):
                    raise StropError(f"{name} is packed, but is not a matrix of this model")
                if (wanted := layer.weight.shape[1]) != columns:
                    raise StropError(f"{name} has {columns} columns, config.json asks for {wanted}")
                replacement = (
                    PackedEmbedding(layer, format, dtype)
                    if isinstance(layer, nn.Embedding)
                    else PackedLinear(layer, format)
                )
                model.set_submodule(path, replacement)
            tied = getattr(model, "all_tied_weights_keys", {})
            for target, source in list(tied.items()):
                if target in packed:  # a head of its own, whatever config.json says
                    del tied[target]
                elif source in packed:
                    embedding = model.get_submodule(source.removesuffix(".weight"))
                    model.set_submodule(target.removesuffix(".weight"), TiedHead(embedding))
                    del tied[target]

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """Keep the scale of a tensor in float32; let others take the type of the model."""
        shape = param.get_shape() if hasattr(param, "get_shape") else list(param.shape)
        return super().get_new_dtype(converter, param, dtype) if shape else None

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        tied = [path for path, module in model.named_modules() if isinstance(module, TiedHead)]
        plain = {
            path: module.plain(dtype or torch.float32)
            for path, module in model.named_modules()
            if isinstance(module, PackedLinear | PackedEmbedding)
        }
        for path, layer in plain.items():
            model.set_submodule(path, layer)
        for path in tied:
            weight = model.get_input_embeddings().weight
            head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            head.weight = weight
            model.set_submodule(path, head)
        return model

    def is_serializable(self) -> bool:
        """Packed directories are written by `strop pack`."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Integers have no gradient; adapters beside them are another matter."""
        return False


def register() -> None:
    """Make transformers load packed directories; calling it again does nothing."""
    if METHOD not in auto.AUTO_QUANTIZER_MAPPING:
        auto.register_quantization_config(METHOD)(StropConfig)
        auto.register_quantizer(METHOD)(StropQuantizer)


register()
