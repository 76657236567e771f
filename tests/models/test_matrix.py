"""Products of packed matrices: the same bits from every instruction set, for any number of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop import _native
from strop.blockfp import FORMATS, BlockTensor, dequantize, quantize
from strop.blockfp.tensor import layout

RUN = [name for name, format in FORMATS.items() if _native.runs_format(layout(format))]
SHAPES = [(16, 32), (1, 1), (17, 33), (40, 96), (33, 70), (129, 288)]


def matrix(tensor: BlockTensor, resident: bool = True, threads: int = 1) -> _native.Matrix:
    whole = float(tensor.tensor_scale)
    columns = tensor.shape[1]
    return _native.Matrix(
        layout(tensor.format), tensor.codes, tensor.scales, whole, columns, resident, threads
    )


def quantized_rows(x):
    """The plain rule for activations: integers -127..127 per 32 columns, scale amax / 127."""
    result = np.zeros_like(x)
    for start in range(0, x.shape[1], 32):
        block = x[:, start : start + 32]
        amax = np.abs(block).max(axis=1, keepdims=True)
        inverse = np.divide(np.float32(127), amax, where=amax > 0, out=np.zeros_like(amax))
        result[:, start : start + 32] = np.rint(block * inverse) * (amax / np.float32(127))
    return result


def bits(x):
    return x.view(np.int32)


def random_tensor(name, rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    return quantize(rng.standard_t(4, (rows, columns)).astype(np.float32), FORMATS[name])


def test_all_formats_of_at_most_8_bits_with_plain_scales_run():
    assert {*FORMATS} - {*RUN} == {
        "mxfp8_e5m2", "mxfp8_e4m3", "mxfp6_e3m2",  # values of more than 8 bits
        "mx4", "mx6", "mx9",  # scales of pairs
    }  # fmt: skip


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_agrees_with_dequantized_product(name, rows, columns):
    tensor = random_tensor(name, rows, columns)
    x = np.random.default_rng(1).standard_normal((5, columns)).astype(np.float32)
    values = dequantize(tensor).astype(np.float64)
    expected = quantized_rows(x).astype(np.float64) @ values.T
    tolerance = 1e-6 * (np.abs(quantized_rows(x)) @ np.abs(values).T)
    assert (np.abs(matrix(tensor).multiply(x) - expected) <= tolerance + 1e-30).all()


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_every_instruction_set_and_row_count_gives_the_same_bits(name, rows, columns, monkeypatch):
    tensor = random_tensor(name, rows, columns)
    x = np.random.default_rng(1).standard_normal((40, columns)).astype(np.float32)
    monkeypatch.setenv("STROP_ISA", "scalar")
    expected = matrix(tensor).multiply(x)
    for isa in _native.instruction_sets():
        monkeypatch.setenv("STROP_ISA", isa)
        for count in (1, 2, 3, 4, 5, 8, 11, 12, 13, 24, 25, 40):
            assert np.array_equal(bits(matrix(tensor).multiply(x[:count])), bits(expected[:count]))
        assert np.array_equal(bits(matrix(tensor, resident=False).multiply(x)), bits(expected))
        assert np.array_equal(bits(matrix(tensor, threads=3).multiply(x)), bits(expected))


@pytest.mark.parametrize("name", ["bfp8", "bfp6", "bfp5", "bfp4", "mxfp4"])
def test_integers_do_not_round(name):
    # Activations are integers of which one in each block is 127, so quantizing changes nothing;
    # with a power-of-two scale all products and sums are integers below 2**24.
    format = FORMATS[name]
    rng = np.random.default_rng(2)
    tensor = random_tensor(name, 20, 128)
    scales = np.full_like(tensor.scales, 127 if name == "mxfp4" else 15 << 3)  # 1.0
    tensor = BlockTensor(format, tensor.shape, tensor.codes, scales, np.float32(1))
    x = rng.integers(-126, 127, (3, 128)).astype(np.float32)
    x[:, ::32] = 127
    expected = x.astype(np.float64) @ dequantize(tensor).astype(np.float64).T
    assert np.array_equal(matrix(tensor).multiply(x), expected)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(RUN),
    rows=st.integers(1, 40),
    columns=st.integers(1, 100),
    count=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_codes_and_scales(name, rows, columns, count, seed):
    """Whatever is in the file, all paths agree, or say that it holds what is not a number."""
    rng = np.random.default_rng(seed)
    tensor = random_tensor(name, rows, columns)
    codes = rng.integers(0, 256, tensor.codes.shape).astype(np.uint8)
    scales = rng.integers(0, 127, tensor.scales.shape).astype(np.uint8)
    tensor = BlockTensor(tensor.format, tensor.shape, codes, scales, tensor.tensor_scale)
    x = rng.standard_normal((count, columns)).astype(np.float32)
    if np.isfinite(dequantize(tensor)).all():
        together = matrix(tensor).multiply(x)
        assert np.array_equal(bits(matrix(tensor, resident=False).multiply(x)), bits(together))
        assert np.array_equal(bits(matrix(tensor).multiply(x[-1:])), bits(together[-1:]))
    else:
        with pytest.raises(ValueError, match="not numbers"):
            matrix(tensor)
        with pytest.raises(RuntimeError, match="not numbers"):
            matrix(tensor, resident=False).multiply(x)


def test_activations_that_are_not_finite_give_nan_in_their_row_only():
    tensor = random_tensor("bfp5", 20, 64)
    x = np.ones((3, 64), np.float32)
    x[1, 40] = np.inf
    y = matrix(tensor).multiply(x)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


def test_zero_and_tiny_activations():
    tensor = random_tensor("bfp5", 20, 64)
    x = np.zeros((2, 64), np.float32)
    x[1] = 1e-42
    assert not matrix(tensor).multiply(x).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t.codes[:, :-1], t.scales, 64), "codes do not have the shape"),
        (lambda t: (t.codes, t.scales[:-1], 64), "scales do not have the shape"),
        (lambda t: (t.codes, t.scales, 48), "codes do not have the shape"),
        (lambda t: (t.codes, t.scales, 0), "codes do not have the shape"),
        (lambda t: (t.codes, t.scales, -32), "codes do not have the shape"),
        (lambda t: (t.codes[:0], t.scales[:0], 64), "needs rows and columns"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    tensor = random_tensor("bfp5", 20, 64)
    codes, scales, columns = change(tensor)
    codes, scales = np.ascontiguousarray(codes), np.ascontiguousarray(scales)
    with pytest.raises(ValueError, match=message):
        _native.Matrix(layout(tensor.format), codes, scales, 1.0, columns, True, 1)


def test_a_tensor_scale_must_be_finite():
    tensor = random_tensor("bfp5", 20, 64)
    with pytest.raises(ValueError, match="tensor scale"):
        _native.Matrix(layout(tensor.format), tensor.codes, tensor.scales, np.inf, 64, True, 1)
