"""What the formats are: their codes, their scales, and numbers worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strop.blockfp import (
    FORMATS,
    BlockTensor,
    Format,
    Rounding,
    Scale,
    ScaleRule,
    dequantize,
    get_format,
    quantize,
    reference,
    upper,
)
from strop.errors import StropError

LARGEST = reference.LARGEST_S1E4M3 + 1

BITS = {  # per element, from the papers and specifications
    **{f"msfp{total}": total - 9 + 1 + 0.5 for total in range(11, 17)},
    "mxfp8_e5m2": 8.25, "mxfp8_e4m3": 8.25, "mxfp6_e3m2": 6.25, "mxfp6_e2m3": 6.25,
    "mxfp4": 4.25, "mxint8": 8.25, "mxint6": 6.25, "mxint4": 4.25, "nvfp4": 4.5,
    "mx4": 4, "mx6": 6, "mx9": 9, "bfp8": 8.25, "bfp6": 6.25, "bfp5": 5.25, "bfp4": 4.5,
    "bfp4g32": 4.25, "bfp8n": 8.5,
}  # fmt: skip


def test_bits_per_weight() -> None:
    assert {name: format.bits_per_weight for name, format in FORMATS.items()} == BITS


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_every_code_decodes_and_encodes_to_itself(format: Format) -> None:
    values = np.array(format.values, np.float32)
    codes = np.arange(len(values))[np.isfinite(values)]
    for rounding in Rounding if format.sign_magnitude else [Rounding.EVEN]:
        assert np.array_equal(reference.encode(values[codes], format, rounding), codes)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_every_scale_byte_decodes_to_itself_in_a_block(format: Format) -> None:
    """A block that holds its largest element in every scale comes back with the same values."""
    largest = int(np.nanargmax(np.abs(np.array(format.values, np.float32))))
    usable = {Scale.UE4M3: range(8, 127), Scale.S1E4M3: range(127)}.get(format.scale, range(1, 255))
    for byte in usable:
        codes = np.zeros((1, format.block), np.uint8) + np.uint8(largest)
        scales = np.zeros((1, format.scale_bytes), np.uint8)
        scales[0, 0] = byte
        packed = reference.pack_planes(codes, format)
        tensor = BlockTensor(format, (1, format.block), packed, scales, np.float32(1))
        values = dequantize(tensor)
        if np.isfinite(values).all():
            assert np.array_equal(dequantize(quantize(values, format)), values), byte


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("cols", [1, 7, 8, 33])
def test_codes_pack_and_unpack(bits: int, cols: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (5, cols)).astype(np.uint8)
    packed = reference.pack_codes(codes, bits)
    assert packed.shape == (5, -(-cols * bits // 8))
    assert np.array_equal(reference.unpack_codes(packed, bits, cols), codes)
    # The rule in words: code i takes bits i * bits and up, low bits first.
    for row, line in zip(codes, packed, strict=True):
        number = int.from_bytes(line.tobytes(), "little")
        assert [number >> (i * bits) & ((1 << bits) - 1) for i in range(cols)] == row.tolist()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mxfp4", [0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        ("mxfp6_e2m3", [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.125]),
        ("mxfp6_e3m2", [0, 0.0625, 0.125, 0.1875, 0.25, 0.3125]),
        ("msfp12", [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]),
        ("mxint8", [0, 1 / 64, 2 / 64]),
    ],
)
def test_first_values(name: str, values: list[float]) -> None:
    assert list(FORMATS[name].values[: len(values)]) == values


@pytest.mark.parametrize(
    ("name", "largest"),
    [("mxfp8_e5m2", 57344), ("mxfp8_e4m3", 448), ("mxfp6_e3m2", 28), ("mxfp6_e2m3", 7.5),
     ("mxfp4", 6), ("mxint8", 127 / 64), ("mxint4", 1.75), ("mxint6", 31 / 16), ("nvfp4", 6)],
)  # fmt: skip
def test_largest_value(name: str, largest: float) -> None:
    assert FORMATS[name].largest == largest


def test_mxfp4_ties_go_to_even_codes() -> None:
    """The table of OCP MX v1.0, section 5.3.3, rounded by IEEE 754 roundTiesToEven."""
    ties = {0.25: 0, 0.75: 1, 1.25: 1, 1.75: 2, 2.5: 2, 3.5: 4, 5: 4}
    block = np.zeros((1, 32), np.float32)
    block[0, : len(ties)] = list(ties)
    block[0, 20] = 4  # sets the scale to one
    assert dequantize(quantize(block, FORMATS["mxfp4"]))[0, : len(ties)].tolist() == [
        *ties.values()
    ]


def test_msfp_by_hand() -> None:
    """A block whose largest exponent is 1: the step of MSFP12 is a half."""
    block = np.zeros((1, 16), np.float32)
    block[0, :6] = [3.99, 1.99, -0.74, 0.26, 0.25, -0.01]
    even = dequantize(quantize(block, FORMATS["msfp12"]))[0, :6]
    truncated = dequantize(quantize(block, FORMATS["msfp12"], rounding=Rounding.TRUNCATE))[0, :6]
    assert even.tolist() == [3.5, 2, -0.5, 0.5, 0, 0]  # 3.99 saturates: rounding up has no code
    assert truncated.tolist() == [3.5, 1.5, -0.5, 0, 0, 0]
    assert np.signbit(even[5])  # sign and magnitude: -0 is kept


def test_microexponents_by_hand() -> None:
    """MX6, step 2**-3: a pair below the binade of the maximum has half the step."""
    block = np.zeros((1, 16), np.float32)
    block[0, :4] = [1.0, 0.0625, 0.0625, 0.4375]
    restored = dequantize(quantize(block, FORMATS["mx6"]))[0, :4]
    assert restored.tolist() == [1.0, 0.0, 0.0625, 0.4375]


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 70)),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    ),
    st.sampled_from([name for name in FORMATS if FORMATS[name].scale is Scale.E8M0]),
    st.sampled_from(ScaleRule),
)
@settings(max_examples=200, deadline=None)
def test_power_of_two_scales_in_exact_arithmetic(x: np.ndarray, name: str, rule: ScaleRule) -> None:
    """Scales and nearest values against the rules of the specification in rational numbers."""
    format = FORMATS[name]
    tensor = quantize(x, format, rule)
    restored = dequantize(tensor)
    values = [Fraction(value) for value in format.values if np.isfinite(value)]
    for row in range(len(x)):
        for block in range(tensor.scales.shape[1]):
            part = slice(block * format.block, (block + 1) * format.block)
            elements = [Fraction(float(value)) for value in x[row, part]]
            amax = max(abs(value) for value in elements)
            byte = int(tensor.scales[row, block])
            if amax < Fraction(2) ** -90:
                continue  # byte 0 and subnormals have tests of their own
            exponent = exact_exponent(amax, format, rule)
            assert byte == exponent + 127
            scale = Fraction(2) ** exponent
            for element, got in zip(elements, restored[row, part], strict=True):
                nearest = min(abs(value * scale - element) for value in values)
                assert abs(Fraction(float(got)) - element) == nearest


def exact_exponent(amax: Fraction, format: Format, rule: ScaleRule) -> int:
    """The exponent of the scale by the words of the specification, without floating point."""
    largest = Fraction(format.largest)
    if rule is ScaleRule.RCEIL:
        # The quotient is a float32 in the rule; here only its rounding is float.
        quotient = Fraction(float(np.float32(float(amax)) / np.float32(format.largest)))
        return ceil_log2(quotient)
    if rule is ScaleRule.EVEN:
        # amax plus half a unit of its last mantissa bit; what is then cut off does not count.
        amax += Fraction(2) ** (floor_log2(amax) - format.mantissa_bits - 1)
    exponent = ceil_log2(amax) if rule is ScaleRule.CEIL else floor_log2(amax)
    return exponent - floor_log2(largest)


def floor_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


def ceil_log2(value: Fraction) -> int:
    floor = floor_log2(value)
    return floor if Fraction(2) ** floor == value else floor + 1


def test_exponents_do_not_come_from_a_logarithm() -> None:
    """The largest float below 2**k has exponent k - 1; a float32 logarithm says k for most k."""
    k = np.arange(-120, 120)
    below = np.nextafter(np.ldexp(np.float32(1), k).astype(np.float32), np.float32(0))
    assert np.array_equal(reference.exponent_field(below) - 127, k - 1)
    wrong = np.floor(np.log2(below)) != k - 1
    assert wrong.mean() > 0.5  # the mistake that this guards against is a common one


@pytest.mark.parametrize("name", FORMATS)
def test_defined_results(name: str) -> None:
    format = get_format(name)
    x = np.zeros((5, 64), np.float32)
    x[1, 40] = np.nan
    x[2] = 1
    x[2, 40] = np.inf
    x[3] = np.float32(1e-42)
    x[4] = -0.0
    with np.errstate(all="ignore"):
        restored = dequantize(quantize(x, format))
    assert np.array_equal(restored[0], x[0])
    block = slice(40 - 40 % format.block, 40 - 40 % format.block + format.block)
    assert np.isnan(restored[1, block]).all()
    assert np.count_nonzero(np.isnan(restored[1])) == format.block
    assert not np.isfinite(restored[2, 40])
    finite = dequantize(quantize(np.ones((1, 64), np.float32), format))[0]
    assert np.array_equal(restored[2, : block.start], finite[: block.start])
    assert np.isfinite(restored[3]).all()
    assert np.array_equal(np.abs(restored[4]), np.abs(x[4]))


def test_ragged_blocks_equal_padded_ones() -> None:
    x = np.random.default_rng(0).standard_normal((9, 45)).astype(np.float32)
    for format in FORMATS.values():
        padded = np.pad(x, ((0, 0), (0, 64 - 45)))
        assert np.array_equal(
            dequantize(quantize(x, format)), dequantize(quantize(padded, format))[:, :45]
        )


def test_quantizing_twice_changes_nothing_for_powers_of_two() -> None:
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for format in FORMATS.values():
        if format.scale is Scale.E8M0 and format.mantissa_bits > 0:
            once = dequantize(quantize(x, format))
            assert np.array_equal(dequantize(quantize(once, format)), once), format.name


def snr(x: np.ndarray, restored: np.ndarray) -> float:
    error = restored.astype(np.float64) - x
    return float(10 * np.log10(np.sum(np.square(x, dtype=np.float64)) / np.sum(error**2)))


@pytest.mark.parametrize("distribution", ["gauss", "laplace", "student-t5"])
def test_bfp4_is_at_least_as_good_as_q4_0_at_the_same_bits(distribution: str) -> None:
    rng = np.random.default_rng(5)
    draw = {"gauss": rng.standard_normal, "laplace": lambda size: rng.laplace(size=size)}
    x = draw.get(distribution, lambda size: rng.standard_t(5, size))((512, 1024))
    x = x.astype(np.float32)
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    peer = gguf.quants.dequantize(gguf.quants.quantize(x, q4_0), q4_0)
    assert FORMATS["bfp4"].bits_per_weight == 4.5
    assert snr(x, dequantize(quantize(x, FORMATS["bfp4"]))) > snr(x, peer) + 1
    # The control: a plain shared exponent at the same bits is worse than Q4_0.
    assert snr(x, dequantize(quantize(x, FORMATS["msfp12"]))) < snr(x, peer) - 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("msfp16", 42.7), ("msfp14", 30.6), ("msfp12", 18.6), ("msfp11", 12.5), ("mxfp4", 18.8)],
)
def test_signal_to_noise_of_published_formats(name: str, expected: float) -> None:
    """Ratios that microxcaling gives for Gaussian numbers, rounded to nearest."""
    x = np.random.default_rng(6).standard_normal((512, 1024)).astype(np.float32)
    assert abs(snr(x, dequantize(quantize(x, FORMATS[name]))) - expected) < 0.15


def test_search_finds_the_best_scale() -> None:
    """Against trying every scale byte with exact errors: the search loses less than 0.1 dB."""
    x = np.random.default_rng(7).standard_normal((256, 16)).astype(np.float32)
    format = FORMATS["bfp4"]
    tensor = quantize(x, format)
    best = np.full(len(x), np.inf)
    for scale in reference.s1e4m3_values()[:LARGEST] * tensor.tensor_scale:
        for signed in (scale, -scale):
            codes = reference.encode(x / signed, format, Rounding.EVEN)
            restored = np.array(format.values, np.float32)[codes] * signed
            best = np.minimum(best, np.sum((restored - x).astype(np.float64) ** 2, axis=1))
    found = np.sum((dequantize(tensor) - x).astype(np.float64) ** 2)
    assert found <= best.sum() * 10**0.01


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(StropError, match="unknown format 'bfp44': did you mean 'bfp4'"):
        get_format("bfp44")


def test_nested_codes_are_an_upper_and_a_lower_plane() -> None:
    """The upper plane by the rules of its own format; both by the codes taken apart by hand."""
    x = np.random.default_rng(8).standard_t(5, (3, 5, 45)).astype(np.float32)
    format = FORMATS["bfp8n"]
    tensor = quantize(x, format)
    codes = reference.unpack_planes(tensor.codes, format, 45)
    whole, half = tensor.tensor_scale, upper(tensor)
    scales = np.repeat(reference.s1e4m3_values()[tensor.scales] * whole, 16, axis=1)[:, :45]
    assert tensor.codes.shape == (2 * 15, 23)
    assert np.array_equal(reference.unpack_codes(tensor.codes[:15], 4, 45), codes >> 4)
    assert np.array_equal(reference.unpack_codes(tensor.codes[15:], 4, 45), codes & 15)
    values = np.array(FORMATS["bfp4"].values, np.float32)[codes >> 4] * scales
    assert half.format is FORMATS["bfp4"]
    assert half.shape == x.shape
    assert np.shares_memory(half.codes, tensor.codes)
    assert np.array_equal(dequantize(half), values.reshape(x.shape))
    values = np.array(format.values, np.float32)[codes] * scales
    assert np.array_equal(dequantize(tensor), values.reshape(x.shape))


def test_nested_values_have_the_nearest_upper_value_and_leave_few_integers_out() -> None:
    ladder = np.array(FORMATS["bfp4"].values)
    values = np.array(FORMATS["bfp8n"].values).reshape(16, 16)
    used = values[np.isfinite(values)]
    assert np.array_equal(used, np.unique(used))  # rising with the code
    assert (used.min(), used.max()) == (-127, 127)
    assert np.diff(used).max() == 2
    for row, nearest in zip(values, ladder, strict=True):
        own = row[np.isfinite(row)]
        distance = np.abs(own[:, None] - ladder)
        assert np.array_equal(np.abs(own - nearest), distance.min(axis=1))
        assert len(own) == 16 or np.array_equal(np.diff(own), np.ones(len(own) - 1))


@pytest.mark.parametrize("distribution", ["gauss", "student-t5"])
def test_nested_precisions_are_close_to_those_of_separate_formats(distribution: str) -> None:
    rng = np.random.default_rng(9)
    draw = rng.standard_normal if distribution == "gauss" else lambda size: rng.standard_t(5, size)
    x = draw((512, 1024)).astype(np.float32)
    tensor = quantize(x, FORMATS["bfp8n"])
    assert snr(x, dequantize(tensor)) > snr(x, dequantize(quantize(x, FORMATS["bfp8"]))) - 1.2
    separate = snr(x, dequantize(quantize(x, FORMATS["bfp4"])))
    assert snr(x, dequantize(upper(tensor))) > separate - 0.4


def test_only_nested_formats_have_an_upper_plane() -> None:
    with pytest.raises(StropError, match="bfp8 has no upper plane: pack as bfp8n"):
        upper(quantize(np.zeros((1, 32), np.float32), FORMATS["bfp8"]))
