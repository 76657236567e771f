from __future__ import annotations

import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from strop.errors import StropError
from strop.models.gguf_file import KINDS, GGUFFile, block_layout, dequantize


def test_it_reads_what_the_gguf_library_reads(tiny_gguf: Path) -> None:
    ours, reference = GGUFFile(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    fields = {key: field for key, field in reference.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == {key: field.contents() for key, field in fields.items()}
    assert list(ours.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        own = ours.tensors[tensor.name]
        assert own.shape == tuple(int(size) for size in tensor.shape[::-1])
        assert own.kind == tensor.tensor_type.name
        stored = tensor.data.view(np.uint8).reshape(ours.rows(own).shape)
        assert np.array_equal(ours.rows(own), stored)


@pytest.mark.parametrize("kind", sorted(set(KINDS.values())))
def test_every_kind_of_block_is_dequantized_as_the_library_does(kind: str) -> None:
    _, width = block_layout(kind)
    rows = np.random.default_rng(0).integers(0, 256, (24, 4 * width), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])
    # In pieces: a row must not depend on its neighbours.
    own = np.concatenate([dequantize(rows[:5], kind), dequantize(rows[5:], kind)])
    assert own.dtype == np.float32
    assert own.tobytes() == expected.tobytes()


def test_the_scalar_formula_of_q4_1() -> None:
    # ggml: a block is a scale and a minimum in half precision, then 32 codes, low nibbles first.
    scale, minimum, codes = np.float16(0.125), np.float16(-0.75), np.arange(32) % 16
    packed = (codes[:16] | codes[16:] << 4).astype(np.uint8)
    block = np.frombuffer(scale.tobytes() + minimum.tobytes() + packed.tobytes(), dtype=np.uint8)
    expected = [float(scale) * int(code) + float(minimum) for code in codes]
    assert dequantize(block[None], "Q4_1")[0].tolist() == expected


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(tensors: int = 0, pairs: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, pairs)


def tensor(
    name: bytes = b"a", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0
) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)


ALIGNMENT = string(b"general.alignment") + struct.pack("<II", 4, 3)
KEY = string(b"key")

BROKEN = {
    "empty": (b"", "truncated"),
    "wrong magic": (header(magic=b"GGML"), "wrong magic"),
    "version 1": (header(version=1), "version 1"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "half a header": (header()[:10], "truncated"),
    "key cut off": (header(pairs=1) + string(b"general")[:-2], "truncated"),
    "key of 2^63 bytes": (header(pairs=1) + struct.pack("<Q", 2**63), "truncated"),
    "2^64 keys": (header(pairs=2**64 - 1), "truncated"),
    "2^64 tensors": (header(tensors=2**64 - 1), "truncated"),
    "key not UTF-8": (header(pairs=1) + string(b"\xff") + struct.pack("<IB", 7, 1), "UTF-8"),
    "key twice": (header(pairs=2) + (KEY + struct.pack("<IB", 7, 1)) * 2, "appears twice"),
    "unknown type": (header(pairs=1) + KEY + struct.pack("<I", 13), "unknown metadata type"),
    "huge array": (header(pairs=1) + KEY + struct.pack("<IIQ", 9, 4, 2**62), "truncated"),
    "nested array": (header(pairs=1) + KEY + struct.pack("<IIQ", 9, 9, 1), "unknown array type"),
    "alignment 3": (header(pairs=1) + ALIGNMENT, "power of two"),
    "tensor twice": (header(tensors=2) + tensor() * 2 + bytes(64), "appears twice"),
    "no dimensions": (header(tensors=1) + tensor(shape=()), "0 dimensions"),
    "dimension of zero": (header(tensors=1) + tensor(shape=(4, 0)) + bytes(64), "not whole blocks"),
    "unknown kind": (header(tensors=1) + tensor(kind=99) + bytes(64), "element type 99"),
    "half a block": (header(tensors=1) + tensor(shape=(16,), kind=8) + bytes(64), "whole blocks"),
    "data cut off": (header(tensors=1) + tensor(), "ends early"),
    "shape overflows": (header(tensors=1) + tensor(shape=(2**33, 2**33)), "ends early"),
    "offset too far": (header(tensors=1) + tensor(offset=2**64 - 32) + bytes(64), "ends early"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_error_that_names_it(case: str, tmp_path: Path) -> None:
    content, reason = BROKEN[case]
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(StropError, match=re.escape(str(path)) + ".*" + reason) as caught:
        GGUFFile(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StropError, match="No such file"):
        GGUFFile(tmp_path / "none.gguf")
