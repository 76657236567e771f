"""MX floats and NVFP4 equal torchao 0.18 bit for bit."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.blockfp import inputs

from strop.blockfp import FORMATS, ScaleRule, dequantize, quantize, reference

if importlib.util.find_spec("torchao") is None:
    pytest.skip("torchao is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def torchao() -> SimpleNamespace:
    from torchao.prototype.mx_formats import config, constants, kernels, mx_tensor, nvfp4_tensor

    def element(name: str) -> object:
        return {
            "mxfp8_e5m2": torch.float8_e5m2,
            "mxfp8_e4m3": torch.float8_e4m3fn,
            "mxfp6_e3m2": constants.DTYPE_FP6_E3M2,
            "mxfp6_e2m3": constants.DTYPE_FP6_E2M3,
            "mxfp4": torch.float4_e2m1fn_x2,
        }[name]

    return SimpleNamespace(
        to_mx=mx_tensor.to_mx,
        to_dtype=mx_tensor.to_dtype,
        element=element,
        mode=config.ScaleCalculationMode,
        nvfp4_quantize=nvfp4_tensor.nvfp4_quantize,
        amax_to_scale=nvfp4_tensor.per_tensor_amax_to_scale,
        unpack=kernels.unpack_uint4,
    )


MX_FLOATS = ["mxfp8_e5m2", "mxfp8_e4m3", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4"]
INPUTS = {
    "all bfloat16": inputs.all_bfloat16,
    "bfloat16 alone": inputs.every_bfloat16_alone,
    "random": inputs.random_blocks,
    "adversarial": inputs.adversarial_blocks,
    "not numbers": inputs.not_numbers,
}


@pytest.mark.parametrize("label", INPUTS)
@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("name", MX_FLOATS)
@np.errstate(all="ignore")
def test_mx_floats_equal_torchao(
    name: str, rule: ScaleRule, label: str, torchao: SimpleNamespace
) -> None:
    format = FORMATS[name]
    x = INPUTS[label](64)
    mode = torchao.mode(rule.value)
    expected_scale, expected = torchao.to_mx(torch.from_numpy(x), torchao.element(name), 32, mode)
    expected_scale = expected_scale.view(torch.uint8).numpy()
    if name == "mxfp4":
        expected = torchao.unpack(expected)
    expected_codes = expected.view(torch.uint8).numpy().reshape(x.shape)

    tensor = quantize(x, format, rule)
    codes = reference.unpack_codes(tensor.codes, format.code_bits, x.shape[1])
    # What a NaN block holds beside its scale, which makes it all NaN, has no meaning.
    nan = np.repeat(tensor.scales == 255, 32, axis=1)
    assert np.array_equal(tensor.scales, expected_scale)
    assert np.array_equal(codes[~nan], expected_codes[~nan])
    assert np.isnan(dequantize(tensor)[nan]).all()


@pytest.mark.parametrize("label", ["all bfloat16", "random", "adversarial"])
@np.errstate(all="ignore")
def test_nvfp4_equals_torchao(label: str, torchao: SimpleNamespace) -> None:
    for x in np.array_split(INPUTS[label](64), 50):
        if not np.isfinite(x).all() or not np.abs(x).max() > 2.0**-100:
            continue
        block = torch.from_numpy(np.ascontiguousarray(x))
        whole = torchao.amax_to_scale(block.abs().max())
        scales, packed = torchao.nvfp4_quantize(block, per_tensor_scale=whole)
        tensor = quantize(x, FORMATS["nvfp4"])
        assert tensor.tensor_scale == whole.item()
        assert np.array_equal(tensor.scales, scales.view(torch.uint8).numpy().reshape(len(x), -1))
        assert np.array_equal(tensor.codes, packed.view(torch.uint8).numpy().reshape(len(x), -1))
