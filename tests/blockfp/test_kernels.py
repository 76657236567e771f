"""The kernels of every instruction set give the bits of the NumPy reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.blockfp import inputs

from strop import _native
from strop.blockfp import FORMATS, Format, Rounding, ScaleRule, dequantize, quantize, reference
from strop.errors import StropError

INPUTS = {
    "random": inputs.random_blocks,
    "adversarial": inputs.adversarial_blocks,
    "not numbers": inputs.not_numbers,
    "bfloat16": inputs.every_bfloat16_alone,
}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Compare floats by their bits, but for the payload of NaN."""
    nan = np.isnan(a)
    same_nan = np.array_equal(nan, np.isnan(b))
    return same_nan and np.array_equal(a[~nan].view(np.uint32), b[~nan].view(np.uint32))


def rules(format: Format) -> list[ScaleRule]:
    """The scale rules that make a difference to a format."""
    return [*ScaleRule] if format.scale.value in ("e8m0", "micro") else [ScaleRule.FLOOR]


@pytest.fixture(params=_native.instruction_sets())
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STROP_ISA", request.param)
    assert _native.instruction_set() == request.param
    return str(request.param)


@pytest.mark.parametrize("cols", [64, 83], ids=["whole", "ragged"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("instruction_set")
@np.errstate(all="ignore")
def test_kernels_equal_reference(name: str, cols: int) -> None:
    format = FORMATS[name]
    for label, make in INPUTS.items():
        x = make(cols)[:: 1 if label != "bfloat16" else 97]
        for rule in rules(format):
            for rounding in Rounding if format.sign_magnitude else [Rounding.EVEN]:
                case = f"{label}, {rule}, {rounding}"
                codes, scales, whole = reference.quantize(x, format, rule, rounding)
                tensor = quantize(x, format, rule, rounding)
                assert tensor.tensor_scale == whole, case
                assert np.array_equal(tensor.scales, scales), case
                assert np.array_equal(tensor.codes, codes), case
                values = reference.dequantize(codes, scales, whole, cols, format)
                assert same_bits(dequantize(tensor), values), case


@pytest.mark.parametrize("name", ["bfp4", "bfp8n", "mxfp4", "mx6"])
def test_threads_do_not_change_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((4096, 257)).astype(np.float32)
    results = []
    for count in (1, 2, 7):
        monkeypatch.setattr("strop.blockfp.tensor.threads", lambda count=count: count)
        results.append(quantize(x, FORMATS[name]))
    for other in results[1:]:
        assert np.array_equal(other.codes, results[0].codes)
        assert np.array_equal(other.scales, results[0].scales)
        assert np.array_equal(dequantize(other), dequantize(results[0]))


def test_shapes() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (3, 0), (0, 5), (2, 3, 31), (7,), (1, 33)]:
        x = rng.standard_normal(shape).astype(np.float32)
        tensor = quantize(x, FORMATS["mxint8"])
        assert tensor.shape == shape
        assert dequantize(tensor).shape == shape
        flat = x.reshape(int(np.prod(shape[:-1])), shape[-1])
        assert np.array_equal(
            dequantize(quantize(flat, FORMATS["mxint8"])).reshape(shape), dequantize(tensor)
        )


def test_unknown_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_ISA", "sse9")
    with pytest.raises(StropError, match="STROP_ISA=sse9: choose from"):
        quantize(np.zeros((1, 32), np.float32), FORMATS["mxfp4"])


def test_kernels_refuse_wrong_shapes() -> None:
    from strop.blockfp.tensor import layout

    rows = np.zeros((2, 32), np.float32)
    good, short = np.zeros((2, 16), np.uint8), np.zeros((2, 15), np.uint8)
    scales = np.zeros((2, 1), np.uint8)
    table = layout(FORMATS["mxfp4"])
    with pytest.raises(ValueError, match="codes do not have the shape"):
        _native.quantize(table, 0, False, rows, 1.0, short, scales, 1)
    with pytest.raises(ValueError, match="scales do not have the shape"):
        _native.dequantize(table, good, np.zeros((1, 1), np.uint8), 1.0, rows, 1)


def test_a_nested_tensor_needs_both_planes() -> None:
    tensor = quantize(np.ones((2, 32), np.float32), FORMATS["bfp8n"])
    with pytest.raises(ValueError, match="codes do not have the shape"):
        dequantize(replace(tensor, codes=tensor.codes[:2]))
