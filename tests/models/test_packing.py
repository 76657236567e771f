"""Packing and unpacking: what is stored, what is reported, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from strop.blockfp import dequantize, get_format, quantize
from strop.errors import StropError
from strop.models import by_kind, load, open_checkpoint, pack, packing, unpack
from strop.models.calibration import open_calibration
from strop.models.packed import describe, packed_tensors


def change(source: Path, target: Path, **tensors: np.ndarray) -> Path:
    """Copy a model with other values in some tensors."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})
    return target


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


def test_what_cannot_be_calibrated_is_said_before_anything_is_loaded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "packed"
    with pytest.raises(StropError, match="own formats, such as bfp5, not for mxfp4"):
        pack(str(tiny_model), "mxfp4", output, calibrate=True)
    with pytest.raises(StropError, match="either a format or a number of bits"):
        pack(str(tiny_model), "bfp4", output, bits=5)
    with pytest.raises(StropError, match="either a format or a number of bits"):
        pack(str(tiny_model), None, output)
    monkeypatch.setattr(packing, "open_calibration", None)
    with pytest.raises(StropError, match="3 bits per weight are too few: at least 4"):
        pack(str(tiny_model), None, output, bits=3)
    (tmp_path / "file").touch()
    with pytest.raises(StropError, match="cannot create directory"):
        pack(str(tiny_model), "bfp4", tmp_path / "file" / "packed", calibrate=True)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "strop.models.torch_backend", raising=False)
    with pytest.raises(StropError, match=r"needs torch and transformers: .*strop\[torch\]"):
        pack(str(tiny_model), "bfp4", output, calibrate=True)
    assert not output.exists()


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"]
)
def test_weights_that_are_not_finite_are_refused(
    name: str, bad: float, tiny_model: Path, tmp_path: Path
) -> None:
    weights = load_file(tiny_model / "model.safetensors")[name]
    weights.flat[5] = bad
    model = change(tiny_model, tmp_path / "model", **{name: weights})
    for calibrate in (False, True):
        with pytest.raises(StropError, match=f"{name} holds NaN or infinity"):
            pack(str(model), "bfp5", tmp_path / "packed", calibrate=calibrate)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.filterwarnings("ignore:overflow")
def test_weights_near_the_largest_number(tiny_model: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    weights = np.full((128, 64), 3.4e38, np.float32)
    model = change(tiny_model, tmp_path / "model", **{name: weights})
    summary = pack(str(model), "bfp5", tmp_path / "packed")
    assert any(group.snr_db == -math.inf for group in by_kind(summary))


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
    with pytest.raises(StropError, match="unknown format ''"):
        pack(str(tiny_model), "bfp5+", output)
    for bits in (math.nan, math.inf, -math.inf):
        with pytest.raises(StropError, match="bits per weight must be finite"):
            pack(str(tiny_model), None, output, bits=bits)
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


def test_nothing_but_an_own_model_is_replaced(tiny_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    pack(str(tiny_model), "bfp5", mine)  # an empty directory is free
    pack(str(tiny_model), "bfp8", mine)
    unpack(mine, tmp_path / "plain")
    unpack(mine, tmp_path / "plain")
    for name in ("results.csv", "notes.txt", "labels.json"):
        (mine / name).write_text("a week of work")
        with pytest.raises(StropError, match=rf"holds {name}, which strop did not write"):
            pack(str(tiny_model), "bfp5", mine)
        (mine / name).rename(tmp_path / name)
    theirs = tmp_path / "theirs"  # a model, but not one that strop wrote
    shutil.copytree(tiny_model, theirs)
    with pytest.raises(StropError, match=r"holds .*, which strop did not write"):
        unpack(mine, theirs)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StropError, match="cannot write"):
        pack(str(tiny_model), "bfp5", tmp_path / "loop")
    (tmp_path / "file").touch()
    with pytest.raises(StropError, match="is a file: name a directory"):
        pack(str(tiny_model), "bfp5", tmp_path / "file")
    assert {"file", "mine", "plain", "theirs"} < {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.glob(".*"))


def test_the_source_is_never_replaced(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "models" / "source"
    shutil.copytree(tiny_model, source)
    for output in (source, source.parent, tmp_path, source / ".." / "source", Path("/")):
        with pytest.raises(StropError, match="would replace the source"):
            pack(str(source), "bfp5", output)
    pack(str(source), "bfp5", tmp_path / "packed")
    with pytest.raises(StropError, match="would replace the source"):
        unpack(tmp_path / "packed", tmp_path / "packed")
    monkeypatch.chdir(tmp_path / "packed")
    with pytest.raises(StropError, match="would replace the current directory"):
        pack(str(source), "bfp5", Path())
    assert (
        load_file(source / "model.safetensors").keys()
        == load_file(tiny_model / "model.safetensors").keys()
    )


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
    model = change(tiny_model, tmp_path / "model", **odd)
    summary = pack(str(model), "bfp5", tmp_path / "packed")
    packed = {row.name for row in summary.tensors if row.format == "bfp5"}
    assert packed & odd.keys() == {"ragged.weight", "narrow.weight", "zeros.weight"}
    unpack(tmp_path / "packed", tmp_path / "plain")
    after = load_file(tmp_path / "plain" / "model.safetensors")
    for name, value in odd.items():
        expected = dequantize(quantize(value, get_format("bfp5"))) if name in packed else value
        assert after[name].dtype == expected.dtype
        assert np.array_equal(after[name], expected), name


def test_two_tensors_of_one_name_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    clash = {"model.embed_tokens.weight_codes": np.zeros(3, np.float32)}
    model = change(tiny_model, tmp_path / "model", **clash)
    with pytest.raises(StropError, match=r"two tensors would be stored as .*weight_codes"):
        pack(str(model), "bfp5", tmp_path / "packed")


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed") / "packed"
    pack(str(tiny_model), "nvfp4", directory)
    return directory


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("codes", None),
        ("scales", None),
        ("tensor_scale", None),
        ("codes", np.array(3, np.uint8)),
        ("codes", np.zeros((264, 31), np.uint8)),
        ("codes", np.zeros((263, 32), np.uint8)),
        ("codes", np.zeros((264, 32), np.int8)),
        ("codes", np.zeros((264, 2, 16), np.uint8)),
        ("scales", np.zeros((264, 5), np.uint8)),
        ("tensor_scale", np.array(1.0)),
        ("tensor_scale", np.zeros(1, np.float32)),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    part: str, value: np.ndarray | None, packed: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(packed, model)
    tensors = load_file(model / "model.safetensors")
    tensors.pop(f"{EMBEDDING}_{part}")
    if value is not None:
        tensors[f"{EMBEDDING}_{part}"] = value
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(StropError, match=rf"{EMBEDDING}_(codes|scales|tensor_scale)( |$)"):
        unpack(model, tmp_path / "plain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_quantization_config_gives_a_model_or_one_line(data: st.DataObject) -> None:
    entry = {"format": "bfp5", "columns": 64}
    quantization: Any = {
        "layout": 1,
        "formats": {"bfp5": describe(get_format("bfp5"))},
        "tensors": {"a.weight": entry},
    }
    places = [
        (quantization, ["layout", "formats", "tensors"]),
        (quantization["formats"], ["bfp5", "bfp4"]),
        (quantization["formats"]["bfp5"], ["block", "values", "scale"]),
        (quantization["tensors"], ["a.weight", "b.weight"]),
        (entry, ["format", "columns"]),
    ]
    place, keys = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    with contextlib.suppress(StropError):
        packed_tensors("here", quantization)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_header_is_noticed_or_harmless(
    data: st.DataObject, packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray((packed / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.just(len(raw)) | st.integers(0, len(raw))) :]
    model = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(packed, model)
    (model / "model.safetensors").write_bytes(raw)
    with contextlib.suppress(StropError):
        unpack(model, model.parent / "plain")
    assert {path.name for path in model.parent.iterdir()} <= {"model", "plain"}
