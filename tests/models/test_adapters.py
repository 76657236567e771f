"""An adapter directory is a model: its base with W + scale B A in place of W."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from tests.training.networks import merged as summed
from torch import nn

from strop.data import read_json, write_json
from strop.errors import StropError
from strop.models import cache_directory, open_checkpoint, pack, resolve, unpack
from strop.models.adapters import CONFIG, WEIGHTS, read_adapter
from strop.models.identity import model_identity
from strop.models.torch_backend import TorchModel, load_network
from strop.training.lora import adapters, add_lora, save_adapter

IDS = torch.arange(3, 23)[None]
DOWN = "model.layers.1.mlp.down_proj"


def trained(base: Path, directory: Path, named: str | None = None) -> Any:
    """Write an adapter that changes its base, and return the network with it."""
    network = load_network(base, open_checkpoint(base).config)
    torch.manual_seed(0)
    add_lora(network, 4, 6.0)
    for layer in adapters(network).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    directory.mkdir()
    save_adapter(network, named or str(base), directory)
    return network


def edited(directory: Path, **changes: Any) -> Path:
    """Change the configuration of an adapter."""
    write_json(directory / CONFIG, read_json(directory / CONFIG) | changes)
    return directory


def rewritten(directory: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Change the matrices of an adapter."""
    layers = read_adapter(directory).layers
    tensors = {
        f"base_model.model.{name}.lora_{part}.weight": matrix
        for name, pair in layers.items()
        for part, matrix in zip("AB", pair, strict=True)
    }
    edit(tensors)
    save_file(tensors, directory / WEIGHTS)
    return directory


def assert_close(one: Any, other: Any) -> None:
    """Compare logits, relative to the largest of them."""
    with torch.no_grad():
        found, expected = (network(IDS).logits for network in (one, other))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    trained(tiny_model, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_it_is_the_base_with_other_matrices(tiny_model: Path, tmp_path: Path) -> None:
    network = trained(tiny_model, tmp_path / "adapter")
    base, merged = open_checkpoint(tiny_model), open_checkpoint(resolve(str(tmp_path / "adapter")))
    assert merged.names == base.names
    layers = adapters(network)
    given = read_adapter(tmp_path / "adapter").layers
    assert given.keys() == layers.keys()
    for name in base.names:
        module = name.removesuffix(".weight")
        if module not in layers:
            assert np.array_equal(merged.stored(name), base.stored(name)), name
            continue
        A, B = (one.astype(np.float64) for one in given[module])
        rounded_once = (base.read(name) + 1.5 * (B @ A)).astype(np.float32)
        assert np.array_equal(merged.read(name), rounded_once), name
        theirs = summed(layers[module]).detach().numpy()
        np.testing.assert_allclose(merged.read(name), theirs, rtol=0, atol=2e-7)
        assert not np.allclose(merged.read(name), base.read(name), atol=1e-3)
    model = TorchModel("merged", merged.directory)
    assert_close(model.network, network)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (merged.directory / file).read_bytes() == (tiny_model / file).read_bytes()


def test_it_is_merged_once_for_all_that_is_the_same(
    tiny_model: Path, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = resolve(str(adapter))
    assert merged.parent == cache_directory() / "models"
    monkeypatch.setattr("strop.models.merging.merge", None)  # from here on it cannot be
    assert resolve(str(adapter)) == merged
    shutil.copytree(tiny_model, tmp_path / "copy")
    shutil.copytree(adapter, tmp_path / "again")
    again = edited(tmp_path / "again", base_model_name_or_path=str(tmp_path / "copy"))
    assert resolve(str(again)) == merged


@pytest.mark.parametrize("change", ["alpha", "weights", "base"])
def test_it_is_another_model_when_a_part_changes(
    change: str, tiny_model: Path, tmp_path: Path, adapter: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    edited(adapter, base_model_name_or_path=str(base))
    directory, identity = resolve(str(adapter)), model_identity(str(adapter))
    if change == "alpha":
        edited(adapter, lora_alpha=7.0)
    elif change == "weights":
        rewritten(adapter, lambda tensors: tensors[next(iter(tensors))].__imul__(2))
    else:
        (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    assert resolve(str(adapter)) != directory
    assert model_identity(str(adapter)) != identity


def test_the_types_of_what_does_not_change_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    network = load_network(tiny_model, open_checkpoint(tiny_model).config, torch.bfloat16)
    network.save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, base / name)
    trained(base, tmp_path / "adapter")
    merged = open_checkpoint(resolve(str(tmp_path / "adapter")))
    assert merged.dtype("model.embed_tokens.weight") == "BF16"
    assert merged.dtype(f"{DOWN}.weight") == "F32"
    assert merged.config["dtype"] == "float32"


def test_over_a_packed_base_it_is_that_of_the_unpacked_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), "bfp5", tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "plain")
    network = trained(tmp_path / "packed", tmp_path / "over-packed")
    trained(tmp_path / "plain", tmp_path / "over-plain")
    packed, plain = (
        open_checkpoint(resolve(str(tmp_path / name))) for name in ("over-packed", "over-plain")
    )
    assert "quantization_config" not in packed.config
    assert packed.names == plain.names
    for name in plain.names:
        assert packed.dtype(name) == plain.dtype(name) == "F32"
        assert np.array_equal(packed.read(name), plain.read(name)), name
    ours = TorchModel("merged", packed.directory).network
    assert_close(ours, network)


def test_half_precision_adapters_of_peft_are_read(adapter: Path, tmp_path: Path) -> None:
    layers = read_adapter(adapter).layers
    tensors = {
        f"base_model.model.{name}.lora_{part}.weight": torch.from_numpy(matrix).bfloat16()
        for name, pair in layers.items()
        for part, matrix in zip("AB", pair, strict=True)
    }
    save_torch(tensors, adapter / WEIGHTS)
    for name, pair in read_adapter(adapter).layers.items():
        for part, matrix in zip("AB", pair, strict=True):
            stored = tensors[f"base_model.model.{name}.lora_{part}.weight"].float().numpy()
            assert np.array_equal(matrix, stored)


def test_a_base_may_be_relative_to_the_current_directory(
    tiny_model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = resolve(str(adapter))
    shutil.copytree(tiny_model, tmp_path / "runs" / "base")
    edited(adapter, base_model_name_or_path="./runs/base")
    monkeypatch.chdir(tmp_path)
    assert resolve("adapter") == merged
    monkeypatch.chdir(tmp_path / "runs")
    with pytest.raises(StropError, match=r"adapter: its base cannot be had: runs/base: no such"):
        resolve(str(adapter))


def test_a_base_that_is_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "second")
    edited(tmp_path / "second", base_model_name_or_path=str(adapter))
    edited(adapter, base_model_name_or_path=str(tmp_path / "second"))  # and a cycle
    for name in ("adapter", "second"):
        for function in (resolve, model_identity):
            with pytest.raises(StropError, match=r"is an adapter too.*--as merged"):
                function(str(tmp_path / name))


def huge(tensors: dict[str, np.ndarray]) -> None:
    for part in "AB":
        tensors[f"base_model.model.{DOWN}.lora_{part}.weight"][:] = 1e30


def with_nan(tensors: dict[str, np.ndarray]) -> None:
    tensors[f"base_model.model.{DOWN}.lora_A.weight"][0, 0] = np.nan


def renamed(tensors: dict[str, np.ndarray]) -> None:
    for part in "AB":
        matrix = tensors.pop(f"base_model.model.{DOWN}.lora_{part}.weight")
        tensors[f"base_model.model.model.layers.9.mlp.down_proj.lora_{part}.weight"] = matrix


def shortened(tensors: dict[str, np.ndarray]) -> None:
    name = f"base_model.model.{DOWN}.lora_B.weight"
    tensors[name] = tensors[name][:-1].copy()


def one_half(tensors: dict[str, np.ndarray]) -> None:
    del tensors[f"base_model.model.{DOWN}.lora_B.weight"]


def with_bias(tensors: dict[str, np.ndarray]) -> None:
    tensors[f"base_model.model.{DOWN}.lora_B.bias"] = np.ones(3, np.float32)


def of_integers(tensors: dict[str, np.ndarray]) -> None:
    name = f"base_model.model.{DOWN}.lora_B.weight"
    tensors[name] = tensors[name].astype(np.int32)


def flat(tensors: dict[str, np.ndarray]) -> None:
    name = f"base_model.model.{DOWN}.lora_A.weight"
    tensors[name] = tensors[name].ravel()


BROKEN: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "too large": (huge, f"{DOWN}.weight holds NaN or infinity when the adapter is added"),
    "not a number": (with_nan, "lora_A.weight holds NaN or infinity"),
    "an unknown module": (renamed, r"layers\.9\.mlp\.down_proj\.weight is not there"),
    "another shape": (shortened, r"down_proj\.weight is \(64, 128\), not \(63, 128\)"),
    "one half": (one_half, r"down_proj\.lora_B\.weight is missing"),
    "a bias": (with_bias, "not a part of a LoRA adapter"),
    "integers": (of_integers, r"not a part of a LoRA adapter.*\(I32\)"),
    "a vector": (flat, "does not have rank 4"),
    "nothing": (dict.clear, "no adapters in it"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_one_error_and_leaves_nothing(case: str, adapter: Path) -> None:
    edit, reason = BROKEN[case]
    with pytest.raises(StropError, match=reason) as caught:
        resolve(str(rewritten(adapter, edit)))
    assert "\n" not in str(caught.value)
    models = cache_directory() / "models"
    assert not models.exists() or not [path for path in models.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "not a LoRA adapter"),
        ({"use_rslora": True}, "adapters with use_rslora cannot be read"),
        ({"modules_to_save": ["lm_head"]}, "adapters with modules_to_save"),
        ({"r": 0}, "r is not a rank: 0"),
        ({"r": 8}, "does not have rank 8"),
        ({"lora_alpha": float("nan")}, None),
        ({"lora_alpha": "16"}, "lora_alpha is not a number: '16'"),
        ({"base_model_name_or_path": None}, "no base_model_name_or_path"),
        ({"base_model_name_or_path": "./nowhere"}, "its base cannot be had: nowhere: no such"),
        ({"base_model_name_or_path": "~nobody-here/x"}, "its base cannot be had: .*no such home"),
        ({"base_model_name_or_path": "smollm3"}, "unknown model 'smollm3'"),
    ],
)
def test_a_configuration_that_is_not_read(
    changes: dict[str, Any], reason: str | None, adapter: Path
) -> None:
    if reason is None:  # JSON files of Python hold such numbers
        path = adapter / CONFIG
        path.write_text(path.read_text().replace("6.0", "NaN"))
        reason = "lora_alpha is not a number: nan"
    else:
        edited(adapter, **changes)
    with pytest.raises(StropError, match=reason):
        resolve(str(adapter))


def test_damaged_files(adapter: Path) -> None:
    content = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(StropError, match=f"{WEIGHTS}: truncated"):
        resolve(str(adapter))
    (adapter / WEIGHTS).unlink()
    with pytest.raises(StropError, match=f"cannot read .*{WEIGHTS}"):
        resolve(str(adapter))
    (adapter / CONFIG).write_text("{")
    with pytest.raises(StropError, match="not valid JSON"):
        resolve(str(adapter))


def test_a_base_that_is_quantized_in_another_way(tiny_model: Path, tmp_path: Path) -> None:
    trained(tiny_model, tmp_path / "adapter", str(tmp_path / "base"))
    shutil.copytree(tiny_model, tmp_path / "base")
    config = read_json(tmp_path / "base" / "config.json")
    quantization = {"quantization_config": {"quant_method": "gptq"}}
    write_json(tmp_path / "base" / "config.json", config | quantization)
    with pytest.raises(StropError, match="base: is quantized, in a way that is not read"):
        resolve(str(tmp_path / "adapter"))


def test_merging_needs_no_pytorch(adapter: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from strop.models import resolve; resolve(sys.argv[1]); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    environment = {**os.environ, "STROP_CACHE": str(tmp_path / "other")}
    subprocess.run([sys.executable, "-c", code, str(adapter)], check=True, env=environment)
    assert [path for path in (tmp_path / "other" / "models").iterdir() if path.is_dir()]
