"""Error-compensated rounding: against a slow reference, and what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.blockfp import BlockTensor, dequantize, get_format, quantize, reference
from strop.errors import StropError, StropFailure
from strop.models.calibration import open_calibration
from strop.models.compensation import (
    DAMPING,
    check_compensable,
    compensate,
    compensated,
    search_scale,
    second_moment,
)

OURS = ("bfp4", "bfp4g32", "bfp5", "bfp6", "bfp8", "bfp8n")


def weights_and_inputs(
    rows: int, cols: int, tokens: int = 400, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs (tokens, cols) that are correlated and of unequal power."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(cols, cols)) * np.exp(rng.normal(size=cols))
    inputs = rng.normal(size=(tokens, cols)) @ mixing
    return rng.laplace(size=(rows, cols)).astype(np.float32), inputs.astype(np.float32)


def moment(inputs: np.ndarray) -> np.ndarray:
    return inputs.T @ inputs / len(inputs)


def output_error(inputs: np.ndarray, weights: np.ndarray, rounded: BlockTensor) -> float:
    return float(np.square(inputs @ (weights - dequantize(rounded)).T).sum())


def slow(weights: np.ndarray, second_moment: np.ndarray, rounded: BlockTensor) -> np.ndarray:
    """Optimal brain quantization with given scales, inverting what is left of H for each column."""
    cols, format = weights.shape[1], rounded.format
    h = second_moment + DAMPING * np.mean(np.diag(second_moment)) * np.eye(cols)
    scales = reference.s1e4m3_values()[rounded.scales].astype(np.float64) * rounded.tensor_scale
    values = np.array(format.values)
    left = weights.astype(np.float64)
    for j in range(cols):
        inverse = np.linalg.inv(h[j:, j:])
        for row, scale in zip(left, scales[:, j // format.block], strict=True):
            nearest = values[np.argmin(np.abs(row[j] - values * scale))] * scale
            row[j + 1 :] -= (row[j] - nearest) / inverse[0, 0] * inverse[0, 1:]
            row[j] = nearest
    return left


@pytest.mark.parametrize("format", ["bfp4", "bfp5"])
def test_it_is_optimal_brain_quantization(format: str) -> None:
    weights, inputs = weights_and_inputs(24, 72)
    rounded = compensate(weights, moment(inputs), get_format(format))
    expected = slow(weights, moment(inputs).astype(np.float64), rounded)
    alike = np.all(np.isclose(dequantize(rounded), expected, rtol=1e-5, atol=1e-6), axis=1)
    assert alike.mean() > 0.9  # what is all but a tie may fall the other way


@pytest.mark.parametrize("format", ["bfp4", "bfp5", "bfp6"])
def test_the_search_minimizes_the_weighted_error(format: str) -> None:
    rng, kind = np.random.default_rng(0), get_format(format)
    left = rng.normal(size=(kind.block, 200)).astype(np.float32)
    cost = np.exp(2 * rng.normal(size=kind.block))
    values, table = np.array(kind.values), reference.s1e4m3_values()

    def error(scales: np.ndarray) -> np.ndarray:
        distance = np.abs(left[:, :, None] - values * table[scales][None, :, None]).min(axis=2)
        return cost @ distance**2

    start = reference.smallest_scale(np.abs(left).max(axis=0), kind)
    tried = [start + step + sign for step in kind.scale_steps for sign in (0, 128)]
    best = np.min([error(scales) for scales in tried], axis=0)
    found = error(search_scale(left, cost, kind))
    assert found.mean() < 1.15 * best.mean()  # it counts in whole numbers
    even = error(search_scale(left, np.ones(kind.block), kind))
    assert even.mean() > 1.2 * found.mean()  # the control: without weights it is not the best


@settings(max_examples=40, deadline=None)
@given(
    format=st.sampled_from(OURS),
    rows=st.integers(1, 9),
    cols=st.integers(1, 70),
    seed=st.integers(0, 2**20),
)
def test_without_correlation_it_is_plain_rounding(
    format: str, rows: int, cols: int, seed: int
) -> None:
    weights, _ = weights_and_inputs(rows, cols, seed=seed)
    even = compensate(weights, 3.7 * np.eye(cols), get_format(format))
    plain = quantize(weights, get_format(format))
    assert np.array_equal(even.codes, plain.codes)
    assert np.array_equal(even.scales, plain.scales)
    assert even.tensor_scale == plain.tensor_scale


@settings(max_examples=20, deadline=None)
@given(format=st.sampled_from(["bfp4", "bfp5", "bfp6"]), seed=st.integers(0, 2**20))
def test_outputs_change_less_than_by_plain_rounding(format: str, seed: int) -> None:
    weights, inputs = weights_and_inputs(16, 64, seed=seed)
    better = compensate(weights, moment(inputs), get_format(format))
    plain = quantize(weights, get_format(format))
    assert output_error(inputs, weights, better) < 0.8 * output_error(inputs, weights, plain)
    # The control: for inputs of another kind there is nothing to gain.
    other = np.random.default_rng(seed).normal(size=(400, 64)).astype(np.float32)
    assert output_error(other, weights, better) > output_error(other, weights, plain)


def test_a_layer_that_nothing_reaches_is_rounded_plainly() -> None:
    weights, _ = weights_and_inputs(5, 40)
    rounded = compensate(weights, np.zeros((40, 40)), get_format("bfp5"))
    assert np.array_equal(rounded.codes, quantize(weights, get_format("bfp5")).codes)


def test_zeros_stay_zeros() -> None:
    _, inputs = weights_and_inputs(5, 40)
    rounded = compensate(np.zeros((5, 40), np.float32), moment(inputs), get_format("bfp4"))
    assert not dequantize(rounded).any()


def test_only_scales_with_a_mantissa_are_compensated() -> None:
    with pytest.raises(StropError, match="strop's own formats, such as bfp5, not for mxfp4"):
        check_compensable([get_format("bfp5"), get_format("mxfp4")])


def test_inputs_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(StropFailure, match="NaN or infinity"):
        second_moment(torch.tensor([[1.0, float("nan")]]))


def test_every_layer_is_rounded_for_what_the_rounded_layers_before_it_give(
    tiny_model: Path, one_thread: None
) -> None:
    calibration = open_calibration(tiny_model, None)
    network = calibration.network
    before = {name: value.clone() for name, value in network.named_parameters()}
    names = set(calibration.linear_layers().values())
    format = get_format("bfp4")
    result = compensated(calibration, dict.fromkeys(names, format))
    assert result.keys() == names
    assert "model.embed_tokens.weight" in names  # the tied head
    # The network now computes with the rounded weights: read again what reaches each layer.
    seen: dict[str, Any] = {}
    layers = calibration.linear_layers()
    head = network.get_output_embeddings()
    network.get_input_embeddings().weight.copy_(before["model.embed_tokens.weight"])
    for layer, name in layers.items():
        if layer is not head:
            layer.register_forward_pre_hook(lambda _, x, n=name: seen.update({n: x[0]}))
    with torch.no_grad():
        hidden = network.base_model(input_ids=calibration.tokens, use_cache=False)
    seen["model.embed_tokens.weight"] = hidden.last_hidden_state
    for name, inputs in seen.items():
        weights = before[name].numpy()
        expected = compensate(weights, second_moment(inputs), format)
        assert np.array_equal(result[name].codes, expected.codes), name
        assert np.array_equal(result[name].scales, expected.scales), name
