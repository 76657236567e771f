"""A packed directory is an ordinary transformers model, packed in memory until it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import strop.models.huggingface
from strop.models import load, pack, unpack

TOKENS = [3, 50, 7, 200, 8, 9]


def logits_of(network: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(torch.tensor([TOKENS])).logits[0].numpy()


@pytest.mark.parametrize("format", ["bfp4", "nvfp4", "mx6"])
def test_equals_the_unpacked_model(format: str, tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), format, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    layer = packed.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, strop.models.huggingface.PackedLinear)
    assert layer.weight_codes.dtype == torch.uint8
    head = packed.get_submodule("lm_head")  # tied to the embedding
    assert isinstance(head, strop.models.huggingface.TiedHead)
    expected = logits_of(plain)
    assert np.array_equal(logits_of(packed), expected)
    assert np.array_equal(logits_of(packed.dequantize()), expected)
    session = load(str(tmp_path / "packed")).session()
    np.testing.assert_allclose(session.forward(TOKENS), expected, atol=1e-4, rtol=0)
    # Negative control: packing did change the model.
    assert np.abs(expected - logits_of(load(str(tiny_model)).network)).max() > 1e-2


def test_some_tensors_may_be_kept(tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), "mxint8", tmp_path / "packed", {"*.mlp.*": "keep"})
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    assert isinstance(packed.get_submodule("model.layers.0.mlp.up_proj"), torch.nn.Linear)
    unpack(tmp_path / "packed", tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert np.array_equal(logits_of(packed), logits_of(plain))


def test_registering_twice_is_no_error() -> None:
    strop.models.huggingface.register()
    strop.models.huggingface.register()
