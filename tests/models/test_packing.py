"""Packing and unpacking: what is stored, and what is reported."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.models.packed_models import changed

from strop.blockfp import dequantize, get_format, quantize
from strop.models import by_kind, load, open_checkpoint, pack, unpack
from strop.models.calibration import open_calibration


@pytest.mark.parametrize("format", ["bfp5", "bfp8n", "mxfp4", "nvfp4", "mx6"])
def test_unpacking_gives_the_quantized_weights(
    format: str, tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), format, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "plain")
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "plain" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        matrix = value.ndim == 2
        expected = dequantize(quantize(value, get_format(format))) if matrix else value
        assert np.array_equal(after[name], expected), name


def test_bits_count_every_byte_that_is_stored(tiny_model: Path, tmp_path: Path) -> None:
    summary = pack(str(tiny_model), "bfp4+bfp6", tmp_path / "packed")
    checkpoint = open_checkpoint(tmp_path / "packed")
    stored = sum(checkpoint.entry(name).size for name in checkpoint.names)
    assert summary.packed_bytes == stored
    assert summary.bits_per_weight == pytest.approx(8 * stored / summary.weights, rel=1e-12)
    kinds = by_kind(summary)
    assert sum(row.weights for row in kinds) == summary.weights
    assert {row.kind: row.format for row in kinds} == {
        "embedding": "bfp6",
        "attention": "bfp4",
        "mlp": "bfp4",
        "norm": "F32",
    }


def test_the_last_override_that_matches_holds(tiny_model: Path, tmp_path: Path) -> None:
    overrides = {"*.mlp.*": "mxfp4", "*.down_proj.weight": "keep", "*.0.*down_proj*": "bfp8"}
    summary = pack(str(tiny_model), "bfp5", tmp_path / "packed", overrides)
    formats = {row.name: row.format for row in summary.tensors}
    assert formats["model.layers.1.mlp.up_proj.weight"] == "mxfp4"
    assert formats["model.layers.1.mlp.down_proj.weight"] == "F32"
    assert formats["model.layers.0.mlp.down_proj.weight"] == "bfp8"
    assert formats["model.layers.0.self_attn.q_proj.weight"] == "bfp5"


def test_calibrating_rounds_the_same_matrices_to_other_values(
    tiny_model: Path, tmp_path: Path, one_thread: None
) -> None:
    plain = pack(str(tiny_model), "bfp4", tmp_path / "plain")
    overrides = {"*.0.self_attn.q_proj.weight": "keep"}
    summary = pack(str(tiny_model), "bfp4", tmp_path / "packed", overrides, calibrate=True)
    assert plain.calibration_tokens == 0
    assert summary.calibration_tokens == 16384
    rows = {row.name: row for row in summary.tensors}
    assert rows["model.layers.0.self_attn.q_proj.weight"].format == "F32"
    packed = [row for row in plain.tensors if rows[row.name].format == "bfp4"]
    assert all(row.noise < rows[row.name].noise for row in packed if row.noise)
    quantization = open_checkpoint(tmp_path / "packed").config["quantization_config"]
    assert quantization["calibration"] == {"text": "own", "tokens": 16384}
    model = load(str(tmp_path / "packed"), backend="torch")
    assert model.session().forward([5, 6]).shape == (2, 264)
    again = pack(str(tiny_model), "bfp4", tmp_path / "again", overrides, calibrate=True)
    assert again.tensors == summary.tensors


def test_a_calibrated_model_predicts_more_like_its_source(
    tiny_model: Path, tmp_path: Path, one_thread: None
) -> None:
    alphabet = "".join(map(chr, range(97, 123))) * 2000
    other = open_calibration(tiny_model, None, seed=1).tokens[:8].tolist()

    def log_probabilities(reference: Path) -> torch.Tensor:
        model = load(str(reference), backend="torch")
        logits = [model.session().forward(piece) for piece in other]
        return torch.tensor(np.array(logits)).log_softmax(-1)

    source, divergence = log_probabilities(tiny_model), []
    for options in ({}, {"calibrate": True}, {"text": alphabet}):
        pack(str(tiny_model), "bfp4+bfp8", tmp_path / "packed", **options)
        change = source - log_probabilities(tmp_path / "packed")
        divergence.append(float((source.exp() * change).sum(-1).mean()))
    plain, own, wrong = divergence
    assert own < 0.9 * plain
    assert wrong > own  # the control: no text of the kind that the model is measured on


@pytest.mark.parametrize("bits", [5.0, 6.5])
def test_a_budget_of_bits_is_kept(
    bits: float, tiny_model: Path, tmp_path: Path, one_thread: None
) -> None:
    summary = pack(str(tiny_model), None, tmp_path / "packed", bits=bits)
    assert bits - 0.2 < summary.bits_per_weight <= bits
    assert summary.format == f"{bits:g}bits"
    assert len({row.format for row in summary.tensors}) > 2


def test_signal_to_noise_is_that_of_the_stored_weights(tiny_model: Path, tmp_path: Path) -> None:
    summary = pack(str(tiny_model), "mxint4", tmp_path / "packed")
    before = load_file(tiny_model / "model.safetensors")
    for row in summary.tensors:
        if row.noise:
            x = before[row.name].astype(np.float64)
            error = x - dequantize(quantize(before[row.name], get_format("mxint4")))
            assert row.signal == pytest.approx(np.sum(x**2), rel=1e-6)
            assert row.noise == pytest.approx(np.sum(error**2), rel=1e-6)
    # A kind pools the power of its tensors: it is not the mean of their decibels.
    [mlp] = [group for group in by_kind(summary) if group.kind == "mlp"]
    rows = [row for row in summary.tensors if row.kind == "mlp"]
    ratio = sum(row.signal for row in rows) / sum(row.noise for row in rows)
    assert mlp.snr_db == pytest.approx(10 * math.log10(ratio))


def test_a_tensor_at_0_db_counts_as_lossy(tiny_model: Path, tmp_path: Path) -> None:
    summary = pack(str(tiny_model), "mxint4", tmp_path / "packed")
    row = next(row for row in summary.tensors if row.noise)
    lost = dataclasses.replace(row, noise=row.signal)
    [group] = by_kind(dataclasses.replace(summary, tensors=(lost,)))
    assert group.snr_db == 0.0


@pytest.mark.filterwarnings("ignore:overflow")
def test_weights_near_the_largest_number(tiny_model: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    weights = np.full((128, 64), 3.4e38, np.float32)
    model = changed(tiny_model, tmp_path, **{name: weights})
    summary = pack(str(model), "bfp5", tmp_path / "packed")
    assert any(group.snr_db == -math.inf for group in by_kind(summary))


def test_odd_tensors_are_kept_or_packed_whole(tiny_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    odd = {
        "ragged.weight": rng.normal(size=(7, 45)).astype(np.float32),
        "narrow.weight": rng.normal(size=(7, 1)).astype(np.float32),
        "zeros.weight": np.zeros((4, 40), np.float32),
        "no_rows.weight": np.zeros((0, 7), np.float32),
        "no_columns.weight": np.zeros((7, 0), np.float32),
        "mask": np.tril(np.ones((8, 8), bool)),
        "table.weight": np.arange(64, dtype=np.int32).reshape(8, 8),
        "cube.weight": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "scalar": np.array(3, np.float32),
    }
    model = changed(tiny_model, tmp_path, **odd)
    summary = pack(str(model), "bfp5", tmp_path / "packed")
    packed = {row.name for row in summary.tensors if row.format == "bfp5"}
    assert packed & odd.keys() == {"ragged.weight", "narrow.weight", "zeros.weight"}
    unpack(tmp_path / "packed", tmp_path / "plain")
    after = load_file(tmp_path / "plain" / "model.safetensors")
    for name, value in odd.items():
        expected = dequantize(quantize(value, get_format("bfp5"))) if name in packed else value
        assert after[name].dtype == expected.dtype
        assert np.array_equal(after[name], expected), name
