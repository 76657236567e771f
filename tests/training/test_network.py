"""Opening a network to train it: plain, packed, with an adapter; and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.networks import some_groups

from strop.data import read_json, write_json
from strop.errors import StropError
from strop.models import pack
from strop.models.huggingface import PackedLinear
from strop.training.lora import adapters, save_adapter
from strop.training.network import NetworkConfig, open_trainee, without_dropout
from strop.training.scoring import token_logps
from strop.training.sequences import lay_out


def gradients(network: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    network.train()
    logps = token_logps(network, lay_out(some_groups(4)))
    (logps**2).sum().backward()
    return logps.detach(), [p.grad for p in network.parameters() if p.grad is not None]


def jolt(network: torch.nn.Module) -> None:
    """Move adapters away from where they change nothing."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for one in network.parameters():
            if one.requires_grad:
                one.add_(0.02 * torch.randn_like(one))


def test_checkpointing_changes_no_gradient(tiny_model: Path) -> None:
    found = []
    for checkpointing in (False, True):
        network = open_trainee(str(tiny_model), NetworkConfig(checkpointing=checkpointing)).network
        jolt(network)
        found.append(gradients(network))
    (plain, wanted), (again, same) = found
    torch.testing.assert_close(plain, again)
    for one, other in zip(wanted, same, strict=True):
        torch.testing.assert_close(one, other)


def test_packed_weights_stay_packed_and_train_like_plain_ones(
    tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), "bfp8", tmp_path / "packed")
    trainee = open_trainee(str(tmp_path / "packed"))
    layers = adapters(trainee.network)
    assert len(layers) == 14
    assert all(isinstance(layer.base, PackedLinear) for layer in layers.values())
    jolt(trainee.network)
    logps, found = gradients(trainee.network)
    plain = open_trainee(str(tiny_model)).network
    with torch.no_grad():
        for name, layer in adapters(plain).items():
            layer.base.weight.copy_(layers[name].base.rows())
        plain.get_input_embeddings().weight.copy_(trainee.network.get_input_embeddings().rows())
    jolt(plain)
    wanted, gradients_of_plain = gradients(plain)
    torch.testing.assert_close(logps, wanted, rtol=1e-4, atol=1e-4)
    for one, other in zip(found, gradients_of_plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_an_adapter_is_gone_on_with(tiny_model: Path, tmp_path: Path) -> None:
    trainee = open_trainee(str(tiny_model), NetworkConfig(rank=3, alpha=5.0))
    jolt(trainee.network)
    save_adapter(trainee.network, str(tiny_model), tmp_path)
    again = open_trainee(str(tmp_path))
    assert again.source.base == str(tiny_model)
    for name, layer in adapters(again.network).items():
        before = adapters(trainee.network)[name]
        torch.testing.assert_close(layer.lora_A, before.lora_A, rtol=0, atol=0)
        torch.testing.assert_close(layer.lora_B, before.lora_B, rtol=0, atol=0)
        assert layer.scale == before.scale
        assert layer.lora_A.requires_grad
    with pytest.raises(StropError, match="adapters are trained with a rank of at least 1"):
        open_trainee(str(tmp_path), NetworkConfig(rank=0))
    with pytest.raises(StropError, match="is an adapter of rank 3: leave out rank"):
        open_trainee(str(tmp_path), NetworkConfig(rank=8))
    with pytest.raises(StropError, match="is an adapter of alpha 5: leave out alpha"):
        open_trainee(str(tmp_path), NetworkConfig(alpha=16.0))


def test_new_adapters_are_those_of_the_seed(tiny_model: Path) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        adapters(open_trainee(str(tiny_model), seed=seed).network) for seed in (0, 0, 1)
    )
    name = next(iter(first))
    assert torch.equal(first[name].lora_A, again[name].lora_A)
    assert not torch.equal(first[name].lora_A, other[name].lora_A)
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_keeps_adapters_in_float32(tiny_model: Path) -> None:
    network = open_trainee(str(tiny_model), NetworkConfig(dtype="bfloat16")).network
    jolt(network)
    logps, found = gradients(network)
    assert logps.dtype == torch.float32
    assert {one.dtype for one in found} == {torch.float32}
    plain = open_trainee(str(tiny_model)).network
    jolt(plain)
    torch.testing.assert_close(logps, gradients(plain)[0], rtol=0.1, atol=0.5)


def test_packed_weights_are_not_trained(tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), "bfp8", tmp_path / "packed")
    with pytest.raises(StropError, match="packed weights are trained with a rank"):
        open_trainee(str(tmp_path / "packed"), NetworkConfig(rank=0))


SMALL = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 50, "num_attention_heads": 2}


def strange(name: str) -> Any:
    """Return a network of which log-probabilities would be wrong."""
    import transformers

    torch.manual_seed(0)
    if name == "scaled logits":
        config = transformers.GraniteConfig(
            **SMALL, num_hidden_layers=1, num_key_value_heads=2, logits_scaling=8.0
        )
        return transformers.GraniteForCausalLM(config)
    if name == "a head with a bias":
        network = transformers.PhiForCausalLM(transformers.PhiConfig(**SMALL, num_hidden_layers=1))
        torch.nn.init.normal_(network.lm_head.bias)
        return network
    types = ["conv", "full_attention"]
    config = transformers.Lfm2Config(
        **SMALL, num_hidden_layers=2, num_key_value_heads=2, layer_types=types, block_ff_dim=32
    )
    network = transformers.Lfm2ForCausalLM(config)
    for key, weight in network.named_parameters():
        if "conv" in key and weight.dim() > 1:
            torch.nn.init.normal_(weight)
    return network


@pytest.mark.parametrize("name", ["scaled logits", "a head with a bias", "convolutions"])
def test_networks_that_would_be_scored_wrongly_are_refused(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / file, tmp_path)
    strange(name).save_pretrained(tmp_path)
    with pytest.raises(StropError, match="cannot be trained"):
        open_trainee(str(tmp_path))


def test_dropout_is_off(tmp_path: Path) -> None:
    import transformers

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 50}
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, embd_pdrop=0.5))
    function = transformers.Starcoder2ForCausalLM(
        transformers.Starcoder2Config(**SMALL, num_hidden_layers=1, residual_dropout=0.5)
    )
    ids = torch.tensor([[1, 2, 3]])
    for one in (network, function):
        one.train()
        assert not torch.equal(one(ids).logits, one(ids).logits)
        without_dropout(one)
        assert torch.equal(one(ids).logits, one(ids).logits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": -1},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"dtype": "float8"},
        {"rank": 0, "dtype": "bfloat16"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StropError):
        NetworkConfig(**wrong)  # type: ignore[arg-type]


def test_an_adapter_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    trainee = open_trainee(str(tiny_model))
    save_adapter(trainee.network, "base", tmp_path)
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = read_json(tmp_path / "adapter_config.json")
    write_json(
        tmp_path / "adapter_config.json", config | {"base_model_name_or_path": str(other), "r": 9}
    )
    with pytest.raises(StropError, match="does not have rank 9"):
        open_trainee(str(tmp_path))
