"""Adapters are peft's, and work over packed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.networks import llama, merged
from torch import nn
from torch.nn.functional import linear

from strop.blockfp import get_format, quantize
from strop.data import read_json, write_json
from strop.errors import StropError
from strop.models.huggingface import PackedLinear
from strop.training.lora import CONFIG, LoraLinear, adapters, add_lora, load_adapter, save_adapter

IDS = torch.arange(3, 23)[None]


def changed_adapters() -> object:
    network = llama()
    add_lora(network, 4, 8.0)
    for layer in adapters(network).values():
        nn.init.normal_(layer.lora_B, std=0.2)
    network.set_attn_implementation("sdpa")
    return network


def test_a_new_adapter_changes_nothing() -> None:
    network = llama()
    network.set_attn_implementation("sdpa")
    before = network(IDS).logits
    assert len(add_lora(network, 4, 8.0)) == 14  # seven matrices in two layers, not the head
    assert torch.equal(network(IDS).logits, before)


def test_peft_reads_our_adapter_and_we_read_peft_s(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    ours = changed_adapters()
    (tmp_path / "ours").mkdir()
    save_adapter(ours, "base", tmp_path / "ours")
    base = llama()
    base.set_attn_implementation("sdpa")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours")
    wanted = ours(IDS).logits
    torch.testing.assert_close(theirs(IDS).logits, wanted, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    again = llama()
    again.set_attn_implementation("sdpa")
    load_adapter(again, tmp_path / "theirs")
    torch.testing.assert_close(again(IDS).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 7, 49])
def test_alpha_is_read_as_it_was_given(tmp_path: Path, rank: int) -> None:
    network = llama()
    add_lora(network, rank, 16.0)  # 16 / 49 * 49 is not 16
    save_adapter(network, "base", tmp_path)
    assert read_json(tmp_path / CONFIG)["lora_alpha"] == 16


def test_merged_weights_give_the_same() -> None:
    network = changed_adapters()
    before = network(IDS).logits
    for name, layer in adapters(network).items():
        layer.base.weight.data = merged(layer)
        network.set_submodule(name, layer.base)
    torch.testing.assert_close(network(IDS).logits, before, rtol=0, atol=1e-5)


def test_over_packed_weights_it_has_the_gradients_of_the_dequantized_ones() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 32)
    packed = PackedLinear(plain, get_format("bfp4"))
    block = quantize(plain.weight.detach().numpy(), get_format("bfp4"))
    packed.weight_codes, packed.weight_scales = map(torch.from_numpy, (block.codes, block.scales))
    packed.weight_tensor_scale = torch.tensor(block.tensor_scale)
    layer = LoraLinear(packed, 4, 8.0)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 5, 64, requires_grad=True)
    A, B = (one.detach().clone().requires_grad_() for one in (layer.lora_A, layer.lora_B))
    y = torch.randn(2, 5, 32)
    (layer(x) * y).sum().backward()
    ours = [x.grad, layer.lora_A.grad, layer.lora_B.grad]
    x.grad = None
    (linear(x, packed.rows() + 2.0 * B @ A, packed.bias) * y).sum().backward()
    for one, other in zip(ours, [x.grad, A.grad, B.grad], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_small_updates_are_not_rounded_away_in_bfloat16() -> None:
    """Each is a tenth of what a step of bfloat16 is; together they have to give their sum."""
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(256, 256).to(torch.bfloat16), 4, 4.0)
    x = torch.randn(512, 256).to(torch.bfloat16).requires_grad_()
    g = torch.randn(512, 256).to(torch.bfloat16)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        y = layer(x)
        [slope] = torch.autograd.grad(y, x, g)
        return y.float(), slope.float()

    before = both()
    torch.nn.init.normal_(layer.lora_B, std=4e-4)
    wanted = (
        x.float() @ layer.lora_A.T @ layer.lora_B.T,
        g.float() @ layer.lora_B @ layer.lora_A,
    )
    for now, old, delta in zip(both(), before, wanted, strict=True):
        assert float(delta.abs().mean() / now.abs().mean()) < 2**-9
        share = ((now - old) * delta).sum() / (delta * delta).sum()
        assert float(share) == pytest.approx(1, abs=0.1)


def test_an_adapter_of_the_head_is_refused(tmp_path: Path) -> None:
    network = llama(tied=False)
    network.set_submodule("lm_head", LoraLinear(network.lm_head, 2, 4.0))
    save_adapter(network, "base", tmp_path)
    with pytest.raises(StropError, match="an adapter of the head"):
        load_adapter(llama(tied=False), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "not a LoRA adapter"),
        ({"use_dora": True}, "use_dora"),
    ],
)
def test_other_adapters_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    (tmp_path / "a").mkdir()
    save_adapter(changed_adapters(), "base", tmp_path / "a")
    write_json(tmp_path / "a" / CONFIG, read_json(tmp_path / "a" / CONFIG) | change)
    with pytest.raises(StropError, match=message):
        load_adapter(llama(), tmp_path / "a")
