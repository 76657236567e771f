"""What packing and unpacking refuse, and what they leave alone."""

from __future__ import annotations

import contextlib
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
from tests.models.packed_models import changed

from strop.blockfp import get_format
from strop.errors import StropError, StropFailure
from strop.models import pack, packing, unpack
from strop.models.packed import describe, packed_tensors


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


@pytest.mark.parametrize("library", [torch, np])
def test_too_little_memory_for_calibrating_is_said_in_one_line(
    library: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "open_calibration", lambda *_: library.zeros(2**50))
    with pytest.raises(StropFailure, match=r"not enough memory to calibrate: .* without calibrat"):
        pack(str(tiny_model), "bfp4", tmp_path / "packed", calibrate=True)
    monkeypatch.setattr(packing, "open_calibration", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):  # the control: a mistake stays one
        pack(str(tiny_model), "bfp4", tmp_path / "packed", calibrate=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"]
)
def test_weights_that_are_not_finite_are_refused(
    name: str, bad: float, tiny_model: Path, tmp_path: Path
) -> None:
    weights = load_file(tiny_model / "model.safetensors")[name]
    weights.flat[5] = bad
    model = changed(tiny_model, tmp_path, **{name: weights})
    for calibrate in (False, True):
        with pytest.raises(StropError, match=f"{name} holds NaN or infinity"):
            pack(str(model), "bfp5", tmp_path / "packed", calibrate=calibrate)
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
    with pytest.raises(StropError, match="packed: its format 'bfp5' is not as this version"):
        unpack(tmp_path / "packed", tmp_path / "plain")
    config["quantization_config"]["formats"][""] = {}
    del config["quantization_config"]["formats"]["bfp5"]
    path.write_text(json.dumps(config))
    with pytest.raises(StropError, match="packed: its format '' is not as this version"):
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
        with pytest.raises(StropError, match=rf"holds {name}, which is not of a model"):
            pack(str(tiny_model), "bfp5", mine)
        (mine / name).rename(tmp_path / name)
    theirs = tmp_path / "theirs"  # a model, but not one that strop wrote
    shutil.copytree(tiny_model, theirs)
    with pytest.raises(StropError, match=r"holds .*, which is not of a model"):
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


def test_two_tensors_of_one_name_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    clash = {"model.embed_tokens.weight_codes": np.zeros(3, np.float32)}
    model = changed(tiny_model, tmp_path, **clash)
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
    found: Any = {}
    problem = "none"
    try:
        found = packed_tensors("here", quantization)
    except StropError as error:
        problem = str(error)
    assert set(found) <= {"a.weight", "b.weight"}
    assert problem.strip()
    assert "\n" not in problem


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
