"""Packing and unpacking: what is stored, what is reported, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from strop.blockfp import dequantize, get_format, quantize
from strop.errors import StropError
from strop.models import by_kind, open_checkpoint, pack, unpack


def change(source: Path, target: Path, **tensors: np.ndarray) -> Path:
    """Copy a model with other values in some tensors."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("format", ["bfp5", "mxfp4", "nvfp4", "mx6"])
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
    summary = pack(str(tiny_model), "bfp4", tmp_path / "packed")
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


def test_signal_to_noise_is_that_of_the_stored_weights(tiny_model: Path, tmp_path: Path) -> None:
    summary = pack(str(tiny_model), "mxint4", tmp_path / "packed")
    before = load_file(tiny_model / "model.safetensors")
    for row in summary.tensors:
        if row.snr_db is not None:
            x = before[row.name].astype(np.float64)
            error = x - dequantize(quantize(before[row.name], get_format("mxint4")))
            assert row.snr_db == pytest.approx(
                10 * math.log10(np.sum(x**2) / np.sum(error**2)), abs=1e-4
            )


def test_a_tensor_at_0_db_counts_as_lossy(tiny_model: Path, tmp_path: Path) -> None:
    summary = pack(str(tiny_model), "mxint4", tmp_path / "packed")
    row = next(row for row in summary.tensors if row.snr_db is not None)
    lost = dataclasses.replace(row, snr_db=0.0)
    [group] = by_kind(dataclasses.replace(summary, tensors=(lost,)))
    assert group.snr_db == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    bad: float, tiny_model: Path, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    weights = load_file(tiny_model / "model.safetensors")[name]
    weights[3, 5] = bad
    model = change(tiny_model, tmp_path / "model", **{name: weights})
    with pytest.raises(StropError, match=f"{name} holds NaN or infinity"):
        pack(str(model), "bfp5", tmp_path / "packed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_bad_requests_leave_nothing(tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed"
    with pytest.raises(StropError, match="unknown format 'bfp55': did you mean 'bfp5'"):
        pack(str(tiny_model), "bfp55", output)
    with pytest.raises(StropError, match="no matrix is called 'norm': the first is"):
        pack(str(tiny_model), "bfp5", output, {"norm": "bfp8"})
    with pytest.raises(StropError, match="unknown format 'kep': did you mean 'keep'"):
        pack(str(tiny_model), "bfp5", output, {"*": "kep"})
    with pytest.raises(StropError, match="not a packed model"):
        unpack(tiny_model, output)
    assert not list(tmp_path.iterdir())
    pack(str(tiny_model), "bfp5", output)
    with pytest.raises(StropError, match="is quantized already"):
        pack(str(output), "bfp4", tmp_path / "again")


def test_a_directory_of_another_layout_or_table_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), "bfp5", tmp_path / "packed")
    path = tmp_path / "packed" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["formats"]["bfp5"]["values"][1] = -111
    path.write_text(json.dumps(config))
    with pytest.raises(StropError, match="its format bfp5 is not the one of this version"):
        unpack(tmp_path / "packed", tmp_path / "plain")
    config["quantization_config"]["layout"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(StropError, match="packed with layout 2, this version of strop reads"):
        unpack(tmp_path / "packed", tmp_path / "plain")
