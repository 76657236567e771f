"""A packed directory is an ordinary transformers model, packed in memory until it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.quantizers import auto

from strop.errors import StropError
from strop.models import load, pack, unpack
from strop.models.huggingface import PackedLinear, TiedHead, register
from strop.models.packed import METHOD

TOKENS = [3, 50, 7, 200, 8, 9]


def logits_of(network: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(torch.tensor([TOKENS])).logits[0].numpy()


@pytest.mark.parametrize("format", ["bfp4", "bfp8n", "nvfp4", "mx6"])
def test_equals_the_unpacked_model(format: str, tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), format, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    layer = packed.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, PackedLinear)
    assert layer.weight_codes.dtype == torch.uint8
    head = packed.get_submodule("lm_head")  # tied to the embedding
    assert isinstance(head, TiedHead)
    expected = logits_of(plain)
    assert np.array_equal(logits_of(packed), expected)
    assert np.array_equal(logits_of(packed.dequantize()), expected)
    session = load(str(tmp_path / "packed"), backend="torch").session()
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


def test_an_untied_head_and_ragged_rows(tmp_path: Path, tiny_model: Path) -> None:
    settings = {"hidden_size": 36, "intermediate_size": 50, "head_dim": 10}
    config = transformers.AutoConfig.from_pretrained(
        tiny_model, tie_word_embeddings=False, **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    network.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    summary = pack(str(tmp_path / "model"), "bfp4+bfp6", tmp_path / "packed")
    assert {row.format for row in summary.tensors if row.kind == "head"} == {"bfp6"}
    unpack(tmp_path / "packed", tmp_path / "plain")
    load32 = {"dtype": torch.float32}
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed", **load32)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", **load32)
    assert np.array_equal(logits_of(packed), logits_of(plain))
    assert np.array_equal(logits_of(packed.dequantize()), logits_of(plain))


LAYER = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("kind", [np.int8, np.float32])
def test_codes_of_another_type_are_not_cast(kind: type, tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), "bfp5", tmp_path / "packed")
    path = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{LAYER}_codes"] = tensors[f"{LAYER}_codes"].astype(kind)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(StropError, match=f"{LAYER}_codes is .* bfp5 needs U8"):
        load(str(tmp_path / "packed"), backend="torch")


@pytest.mark.parametrize("rows", [0, 128, 255])
def test_a_nested_tensor_without_its_lower_plane_is_refused(
    rows: int, tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), "bfp8n", tmp_path / "packed")
    path = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(path)
    codes = tensors[f"{LAYER}_codes"]
    assert codes.shape == (256, 32)
    save_file(tensors | {f"{LAYER}_codes": codes[:rows]}, path, metadata={"format": "pt"})
    with pytest.raises(StropError, match=rf"{LAYER}_codes is .* bfp8n needs U8 \(256, 32\)"):
        load(str(tmp_path / "packed"), backend="torch")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (LAYER, 63, "has 63 columns, config.json asks for 64"),
        ("model.norm.weight", 64, "no tensor named"),
        ("model.nothing.weight", 64, "no tensor named"),
    ],
)
def test_a_config_that_does_not_fit(
    name: str, columns: int, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), "mxint4", tmp_path / "packed")  # 63 columns take the bytes of 64
    path = tmp_path / "packed" / "config.json"
    config = json.loads(path.read_text())
    entry = {"format": "mxint4", "columns": columns}
    config["quantization_config"]["tensors"][name] = entry
    path.write_text(json.dumps(config))
    with pytest.raises(StropError, match=message):
        load(str(tmp_path / "packed"), backend="torch")


def test_registering_twice_is_no_error() -> None:
    before = auto.AUTO_QUANTIZER_MAPPING[METHOD]
    register()
    register()
    assert auto.AUTO_QUANTIZER_MAPPING[METHOD] is before
