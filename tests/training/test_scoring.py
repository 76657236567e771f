"""Prompts computed once give what the padded batch gives: values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.networks import llama, qwen_with_window, some_groups

from strop.training import attention
from strop.training.lora import adapters, add_lora
from strop.training.memory import ROWS
from strop.training.scoring import completion_logps, token_logps
from strop.training.sequences import Group, filled, lay_out


def padded_logps(network: Any, groups: list[Group]) -> torch.Tensor:
    """Return each completion's log-probability as the ordinary padded batch gives it."""
    pairs = [(group.prompt, one) for group in groups for one in group.completions]
    width = max(len(prompt) + len(one) for prompt, one in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, one) in enumerate(pairs):
        ids[row, : len(prompt) + len(one)] = torch.tensor(prompt + one)
        mask[row, : len(prompt) + len(one)] = 1
    network.set_attn_implementation("sdpa")
    scores = network(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
    return torch.stack(
        [
            sum(scores[row, len(prompt) + at - 1, token] for at, token in enumerate(one))
            for row, (prompt, one) in enumerate(pairs)
        ]
    )


def gradients(network: Any, logps: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of a weighted sum, and forget them."""
    (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
    found = [one.grad.clone() for one in network.parameters() if one.grad is not None]
    network.zero_grad()
    return found


@pytest.mark.parametrize("block", [3, attention.BLOCK])
@pytest.mark.parametrize("kind", ["lora", "full", "window", "checkpointing"])
def test_shared_prompts_equal_the_padded_batch(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    network = qwen_with_window(4) if kind == "window" else llama(tied=kind != "full")
    if kind != "full":
        add_lora(network, 4, 8.0)
        for layer in adapters(network).values():
            torch.nn.init.normal_(layer.lora_B, std=0.2)
    if kind == "checkpointing":
        network.train()
        network.gradient_checkpointing_enable({"use_reentrant": False})
    groups = some_groups(30)  # more tokens than ROWS
    layout = lay_out(groups)
    assert len(layout.targets) > ROWS
    ours = completion_logps(token_logps(network, layout), layout)
    ours_gradients = gradients(network, ours)
    plain = padded_logps(network, groups)
    plain_gradients = gradients(network, plain)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-4)
    assert len(ours_gradients) == len(plain_gradients) > 0
    for one, other in zip(ours_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_attention_in_bfloat16_is_near_that_in_float32() -> None:
    random = torch.Generator().manual_seed(0)
    groups = [Group((5,) * 150, ((6,) * 40, (7,) * 200)), Group((8,) * 3, ((9,),))]
    count = sum(group.size for group in groups)
    whole = [torch.randn(heads, count, 32, generator=random) for heads in (6, 2, 2)]
    whole[0] /= 32**0.5
    slope = torch.randn(count, 6, 32, generator=random)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [one.to(torch.bfloat16).to(dtype).requires_grad_() for one in whole]
        result = attention.Grouped.apply(*inputs, groups, None)
        result.backward(slope.to(dtype))
        found[dtype] = [result.detach(), *(one.grad for one in inputs)]
    for one, other in zip(found[torch.float32], found[torch.bfloat16], strict=True):
        assert float((one - other.float()).norm() / one.norm()) < 0.01


def test_a_completion_does_not_see_its_neighbours() -> None:
    network = llama()
    groups = some_groups(5)
    layout = lay_out(groups)
    together = completion_logps(token_logps(network, layout), layout)
    alone = []
    for group in groups:
        for one in group.completions:
            single = lay_out([Group(group.prompt, (one,))])
            alone.append(completion_logps(token_logps(network, single), single))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


@given(st.integers(0, 99), st.integers(1, 200))
def test_lots_hold_every_group_once_and_fit(seed: int, room: int) -> None:
    groups = some_groups(12, seed)
    lots = filled(groups, room)
    assert sorted(index for lot in lots for index in lot) == list(range(12))
    for lot in lots:
        assert len(lot) == 1 or sum(groups[index].size for index in lot) <= room


def test_empty_parts_are_refused() -> None:
    for prompt, completions in (((), ((1,),)), ((1,), ()), ((1,), ((2,), ()))):
        with pytest.raises(ValueError, match="empty"):
            Group(prompt, completions)
