from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from strop.errors import StropError
from strop.models import open_checkpoint
from strop.models.checkpoint import write_safetensors


def directory_with(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    save_file(tensors, path / "model.safetensors")
    return path


def test_every_value_of_half_precision_is_exact(tmp_path: Path) -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    tensors = {"half": bits.view(torch.float16), "brain": bits.clone().view(torch.bfloat16)}
    checkpoint = open_checkpoint(directory_with(tmp_path, tensors))
    for name, tensor in tensors.items():
        values, expected = checkpoint.read(name), tensor.float().numpy()
        assert values.dtype == np.float32
        nan = np.isnan(expected)
        assert np.array_equal(np.isnan(values), nan)
        assert np.array_equal(values[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def test_types_and_shapes(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "codes": torch.arange(6, dtype=torch.uint8).reshape(2, 3),
        "signed": torch.tensor([[-1, 7]], dtype=torch.int64),
        "flags": torch.tensor([True, False]),
        "doubles": torch.tensor([1e300], dtype=torch.float64),
    }
    checkpoint = open_checkpoint(directory_with(tmp_path, tensors))
    assert checkpoint.names == sorted(tensors)
    assert {name: checkpoint.dtype(name) for name in tensors} == {
        "scalar": "F32",
        "empty": "F32",
        "codes": "U8",
        "signed": "I64",
        "flags": "BOOL",
        "doubles": "F64",
    }
    for name, tensor in tensors.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert np.array_equal(checkpoint.read(name), tensor.numpy())
    checkpoint.read("codes")[:] = 0  # a copy: the file is not touched
    assert checkpoint.read("codes").any()
    with pytest.raises(StropError, match="no tensor named other"):
        checkpoint.read("other")


def test_shards(tmp_path: Path) -> None:
    directory_with(tmp_path, {"a": torch.ones(2)})
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names == ["a", "b"]
    assert checkpoint.read("b").tolist() == [0, 0, 0]
    assert [path.name for path in checkpoint.files] == ["one.safetensors", "two.safetensors"]
    for weight_map, reason in (
        ({"a": "two.safetensors"}, "no tensor a"),
        ({"a": "../one.safetensors"}, "not a file name"),
        ({"a": "gone.safetensors"}, "No such file"),
        ({}, "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(StropError, match=reason):
            open_checkpoint(tmp_path)


def test_what_we_write_the_library_reads(tmp_path: Path) -> None:
    layout = {"b": ("F32", (3, 2)), "a": ("BF16", (5,)), "none": ("F32", (0,))}
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    halves = torch.arange(5).bfloat16().view(torch.uint16).numpy()
    chunks = [values[:2], values[2:], halves, np.empty(0, np.float32)]
    write_safetensors(tmp_path / "model.safetensors", layout, chunks)
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["b"].numpy(), values)
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.read("a").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(StropError, match="expected"):
        write_safetensors(tmp_path / "short", layout, chunks[:2])


def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


TWO = {"dtype": "U8", "shape": [4]}
BROKEN = {
    "empty": (b"", "truncated"),
    "seven bytes": (bytes(7), "truncated"),
    "header beyond the end": (file({}, length=99), "truncated"),
    "header of a terabyte": (file({}, length=2**40), "not a safetensors file"),
    "not JSON": (file(b"{"), "not valid JSON"),
    "not UTF-8": (file(b"\xff\xfe"), "not valid JSON"),
    "deep JSON": (file(b"[" * 100_000), "not valid JSON"),
    "a list": (file([]), "not a JSON object"),
    "a key twice": (file(b'{"a":{},"a":{}}'), "twice"),
    "no fields": (file({"a": 3}), "expected an object"),
    "unknown type": (file(one("F3"), bytes(8)), "element type 'F3'"),
    "type of a wrong type": (file(one(["F32"]), bytes(8)), "element type"),
    "negative shape": (file(one(shape=[-2]), bytes(8)), "bad shape"),
    "true as a size": (file(one("U8", [True], [0, 1]), bytes(1)), "bad shape"),
    "too many dimensions": (file(one(shape=[1] * 33), bytes(8)), "bad shape"),
    "no offsets": (file({"a": TWO}), "bad data_offsets"),
    "three offsets": (file(one(offsets=[0, 8, 8]), bytes(8)), "bad data_offsets"),
    "size differs": (file(one(shape=[3]), bytes(8)), "takes 12 bytes"),
    "offsets backwards": (file(one(shape=[0], offsets=[8, 0]), bytes(8)), "takes 0 bytes"),
    "data cut off": (file(one(), bytes(7)), "truncated: the tensors need"),
    "data left over": (file(one(), bytes(9)), "1 bytes after the last tensor"),
    "a gap": (file(one(offsets=[1, 9]), bytes(9)), "does not follow"),
    "overlap": (
        file(
            {"a": {**TWO, "data_offsets": [0, 4]}, "b": {**TWO, "data_offsets": [2, 6]}}, bytes(6)
        ),
        "does not follow",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_error_that_names_it(case: str, tmp_path: Path) -> None:
    content, reason = BROKEN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StropError, match=re.escape(str(path)) + ".*" + reason) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors = {"a": torch.arange(6).float().reshape(2, 3), "b": torch.ones(4, dtype=torch.uint8)}
    directory = directory_with(tmp_path_factory.mktemp("damaged"), tensors)
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(directory)
    except StropError as error:
        refusal = str(error)
    else:
        refusal = f"{path}: none"
        for name in checkpoint.names:
            assert checkpoint.read(name).shape == checkpoint.shape(name)
    assert refusal.startswith((f"{path}: ", f"cannot read {path}: "))


def test_a_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(StropError, match=r"config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(StropError, match="expected a JSON object"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StropError, match=r"no model\.safetensors"):
        open_checkpoint(tmp_path)
