"""Which matrices matter, and what a budget buys."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.blockfp import Format, dequantize, get_format, quantize
from strop.errors import StropError
from strop.models.calibration import Calibration, excerpts, open_calibration, pieces
from strop.models.checkpoint import open_checkpoint
from strop.models.plan import CANDIDATES, cheapest, formats_within, stored_bits
from strop.models.sensitivity import sensitivities

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def calibration(tiny_model: Path, one_thread: None) -> Calibration:
    return open_calibration(tiny_model, None)


def divergence(calibration: Calibration, name: str, format: Format) -> float:
    """Round one matrix and measure the divergence, in nats per token."""
    network = calibration.network
    weights = dict(network.named_parameters())[name]
    kept = weights.clone()
    with torch.no_grad():
        p = network(input_ids=calibration.tokens).logits.log_softmax(-1)
        weights.copy_(torch.from_numpy(dequantize(quantize(kept.numpy(), format))))
        q = network(input_ids=calibration.tokens).logits.log_softmax(-1)
        weights.copy_(kept)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_the_estimate_is_near_the_measured_divergence(calibration: Calibration) -> None:
    costs = sensitivities(calibration)
    assert set(costs) == set(calibration.linear_layers().values())
    estimated, measured = [], []
    for name, row in costs.items():
        for format in CANDIDATES[:2]:
            estimated.append(row[format])
            measured.append(divergence(calibration, name, format))
    ratio = np.array(estimated) / np.array(measured)
    assert 0.5 < ratio.min() < ratio.max() < 2
    assert 0.8 < np.exp(np.mean(np.log(ratio))) < 1.25


def test_more_bits_cost_less_everywhere(calibration: Calibration) -> None:
    for name, row in sensitivities(calibration).items():
        in_order = [row[format] for format in CANDIDATES]
        assert in_order == sorted(in_order, reverse=True), name


def test_no_gradient_or_hook_is_left(calibration: Calibration) -> None:
    sensitivities(calibration)
    modules = list(calibration.network.modules())
    assert not any(module._forward_hooks for module in modules)
    assert all(parameter.grad is None for parameter in calibration.network.parameters())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_budget_is_kept_and_spent_nearly_as_well_as_possible(data: st.DataObject) -> None:
    formats = CANDIDATES[:3]
    count = data.draw(st.integers(1, 5))
    positive = st.floats(0.01, 10)
    sizes, costs = {}, {}
    for index in range(count):
        weights, start = data.draw(st.integers(1, 50)), data.draw(positive)
        sizes[f"{index}"] = {f: round(weights * f.bits_per_weight * 4) for f in formats}
        costs[f"{index}"] = {f: start * 4.0**-i for i, f in enumerate(formats)}
    smallest = sum(min(row.values()) for row in sizes.values())
    budget = smallest + data.draw(st.integers(0, 400))
    chosen = cheapest(costs, sizes, budget)

    def total(pick: dict[str, Format]) -> tuple[float, int]:
        return sum(costs[n][f] for n, f in pick.items()), sum(sizes[n][f] for n, f in pick.items())

    cost, size = total(chosen)
    assert size <= budget
    every = [
        dict(zip(sizes, each, strict=True)) for each in itertools.product(formats, repeat=count)
    ]
    best = min(total(pick)[0] for pick in every if total(pick)[1] <= budget)
    # Greedy is at most the saving of one change short of the best.
    assert cost - best <= max(row[formats[0]] for row in costs.values()) + 1e-9


def test_the_budget_counts_what_is_kept(tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    packed = [name for name in checkpoint.names if len(checkpoint.shape(name)) == 2]
    costs = {name: {f: 1 / f.bits_per_weight for f in CANDIDATES} for name in packed}
    weights = sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names)
    kept, fixed = "model.layers.0.self_attn.k_proj.weight", packed[0]
    for bits in (7.0, 8.0, 9.0):
        choices = {kept: None, fixed: CANDIDATES[3]}
        chosen = formats_within(checkpoint, bits, costs, choices)
        assert choices.items() <= chosen.items()
        stored = sum(
            stored_bits(checkpoint.shape(name), format)
            if (format := chosen.get(name))
            else 8 * checkpoint.entry(name).size
            for name in checkpoint.names
        )
        assert stored <= bits * weights
    with pytest.raises(StropError, match=r"4 bits per weight are too few: at least 4\.\d+ are"):
        formats_within(checkpoint, 4, costs, {})


def test_a_matrix_of_unknown_cost_takes_the_largest_format(tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    packed = [name for name in checkpoint.names if len(checkpoint.shape(name)) == 2]
    costs = {name: dict.fromkeys(CANDIDATES, 1.0) for name in packed[1:]}
    chosen = formats_within(checkpoint, 8, costs, {})
    assert chosen[packed[0]] is CANDIDATES[-1]
    assert chosen[packed[1]] is get_format("bfp4")


def test_own_text_follows_from_the_seed(tiny_model: Path, one_thread: None) -> None:
    first, again, other = (open_calibration(tiny_model, None, seed) for seed in (0, 0, 1))
    assert first.tokens.shape == (128, 128)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert first.describe() == {"text": "own", "tokens": 16384}


def test_a_given_text_is_cut_evenly(tiny_model: Path) -> None:
    text = "abcdefgh" * 4000
    calibration = open_calibration(tiny_model, text)
    assert calibration.tokens.shape == (128, 128)
    assert calibration.describe()["text"].startswith("sha256 ")
    assert pieces(list(range(10)), 1) == [[i] for i in range(10)]
    cut = pieces(list(range(1000)), 5)
    assert len(cut) == 128
    assert all(piece == list(range(piece[0], piece[0] + 5)) for piece in cut)
    text = "".join(map(chr, range(300, 5000)))
    assert excerpts(text, 5000) == text
    parts = excerpts(text, 1280).split("\n")
    assert [len(part) for part in parts] == [10] * 128
    assert parts[0] == text[:10]
    assert parts[-1] == text[-10:]
    with pytest.raises(StropError, match="the calibration text has 100 tokens: at least 1024"):
        open_calibration(tiny_model, "x" * 100)
