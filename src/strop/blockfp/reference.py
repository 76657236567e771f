"""Quantization written for reading: plain NumPy, one step after the other.

The fast path in the native extension gives the same bits; tests compare the two by equality.
Exponents are taken from the bits of the float: floor(log2(x)) through a float logarithm is wrong
for the largest floats below most powers of two.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from strop.blockfp.formats import Format, Rounding, Scale, ScaleRule, float_values

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

NAN_SCALE = 255  #: the scale byte of a block that held a NaN; the whole block decodes to NaN
LARGEST_S1E4M3 = 126  #: largest scale magnitude of S1E4M3: 127 with the sign bit would be NAN_SCALE


def quantize(
    x: Floats, format: Format, rule: ScaleRule, rounding: Rounding
) -> tuple[Bytes, Bytes, np.float32]:
    """Quantize rows: float32 (rows, cols) to packed codes, scales and the tensor's scale.

    Returns codes (planes * rows, ceil(cols * plane_bits / 8)) and scales (rows, blocks *
    scale_bytes). A last block that is not whole is filled up with zeros, which change neither its
    scale nor its codes.
    """
    rows, cols = x.shape
    blocks = -(-cols // format.block)
    padded = np.pad(x, ((0, 0), (0, blocks * format.block - cols)))
    amax = float(np.max(np.abs(x), initial=0, where=np.isfinite(x)))
    whole = tensor_scale(amax, format)
    codes, scales = quantize_blocks(padded.reshape(-1, format.block), whole, format, rule, rounding)
    codes = codes.reshape(rows, -1)[:, :cols]
    return pack_planes(codes, format), scales.reshape(rows, -1), whole


def dequantize(codes: Bytes, scales: Bytes, whole: np.float32, cols: int, format: Format) -> Floats:
    """Return the values of packed codes: float32 (rows, cols)."""
    unpacked = unpack_planes(codes, format, cols)
    padded = np.pad(unpacked, ((0, 0), (0, -cols % format.block))).reshape(-1, format.block)
    blocks = dequantize_blocks(padded, scales.reshape(len(padded), -1), whole, format)
    return blocks.reshape(len(unpacked), -1)[:, :cols]


def pack_planes(codes: Bytes, format: Format) -> Bytes:
    """Pack rows of codes: of a nested format all upper halves, then all lower ones."""
    bits = format.plane_bits
    shifts = range(format.code_bits - bits, -1, -bits)
    return np.concatenate([pack_codes(codes >> np.uint8(shift), bits) for shift in shifts])


def unpack_planes(packed: Bytes, format: Format, cols: int) -> Bytes:
    """Return the codes (rows, cols) of rows packed by `pack_planes`."""
    bits = np.uint8(format.plane_bits)
    planes = [unpack_codes(plane, int(bits), cols) for plane in np.split(packed, format.planes)]
    return reduce(lambda upper, lower: upper << bits | lower, planes)


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Pack each row of codes into bytes: code i takes bits i*bits and up, low bits first.

    Of each code only the lowest `bits` bits count.
    """
    rows, cols = codes.shape
    binary = np.unpackbits(codes[:, :, None], axis=2, bitorder="little", count=bits)
    return np.packbits(binary.reshape(rows, cols * bits), axis=1, bitorder="little")


def unpack_codes(packed: Bytes, bits: int, cols: int) -> Bytes:
    """Return the codes (rows, cols) of rows packed by `pack_codes`."""
    rows = len(packed)
    binary = np.unpackbits(packed, axis=1, bitorder="little", count=cols * bits)
    return np.packbits(binary.reshape(rows, cols, bits), axis=2, bitorder="little")[:, :, 0]


def quantize_blocks(
    x: Floats, tensor_scale: np.float32, format: Format, rule: ScaleRule, rounding: Rounding
) -> tuple[Bytes, Bytes]:
    """Quantize whole blocks: float32 (n, block) to codes (n, block) and scales (n, scale_bytes)."""
    if format.scale is Scale.S1E4M3:
        return search_scale(x / tensor_scale, format)
    amax = np.max(np.abs(x), axis=1)  # NaN if any element is
    micro = np.zeros((len(x), 0), np.uint8)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if format.scale is Scale.UE4M3:
            scales, factor = ue4m3_scale(amax, tensor_scale)
            factors = factor[:, None]
        else:
            scales = power_of_two_scale(amax, format, rule)
            factors = multiplier(scales, format, rule)[:, None]
        if format.scale is Scale.MICRO:
            halved = microexponents(x, amax)
            micro = np.packbits(halved, axis=1, bitorder="little")
            factors = factors * np.where(np.repeat(halved, 2, axis=1), np.float32(2), np.float32(1))
        codes = encode(x * factors, format, rounding)
    codes[scales == NAN_SCALE] = 0
    return codes, np.concatenate([scales[:, None], micro], axis=1)


def exponent_field(x: Floats) -> NDArray[np.int32]:
    """Return the biased exponent of float32: 0 for zeros and subnormals, 255 for Inf and NaN."""
    return ((x.view(np.uint32) >> 23) & 0xFF).astype(np.int32)


def power_of_two_scale(amax: Floats, format: Format, rule: ScaleRule) -> Bytes:
    """Return the E8M0 byte of each block from its largest magnitude (OCP MX v1.0, section 6.3).

    Subnormal and zero maxima give byte 0, NaN gives 255. An infinite maximum keeps the scale that
    its exponent field gives and saturates, or decodes to Inf; 254 under RCEIL.
    """
    bits = amax.view(np.uint32).astype(np.int64)
    if rule is ScaleRule.RCEIL:
        descale = amax / np.float32(format.largest)
        fraction = descale.view(np.uint32) & 0x7FFFFF
        field = exponent_field(descale)
        # 2**(field - 127) is below descale if any fraction bit is set. A subnormal is
        # fraction * 2**-149, so it is above 2**-127 = byte 0 if fraction > 0x400000.
        above = np.where(field == 0, fraction > 0x400000, fraction > 0)
        byte = np.minimum(field + above, 254)
    else:
        if rule is ScaleRule.EVEN:
            bits = bits + (1 << (23 - format.mantissa_bits - 1))
        field = (bits >> 23).astype(np.int32)
        if rule is ScaleRule.CEIL:
            field = field + ((bits & 0x7FFFFF) > 0)
        byte = np.clip(field - format.largest_exponent, 0, NAN_SCALE)
    return np.where(np.isnan(amax), NAN_SCALE, byte).astype(np.uint8)


def multiplier(scales: Bytes, format: Format, rule: ScaleRule) -> Floats:
    """Return what elements are multiplied by: 2**(127 - byte), a power of two and so exact.

    For byte 0 the MX floats follow torchao 0.18, so that results can be exchanged: 2**126, and 1
    under RCEIL. That concerns only blocks whose maximum is below 2**-110.
    """
    byte = np.minimum(scales, 254).astype(np.int32)
    if format.largest_exponent > 0:
        byte[scales == 0] = 127 if rule is ScaleRule.RCEIL else 1
    return np.ldexp(np.float32(1), 127 - byte).astype(np.float32)


def ue4m3_scale(amax: Floats, tensor_scale: np.float32) -> tuple[Bytes, Floats]:
    """Return the NVFP4 scale byte of each block and the factor for its elements.

    The scale amax / 6 / tensor_scale is held within [2**-6, 448] and rounded to E4M3.
    """
    scaled = amax / np.float32(6) / tensor_scale
    nan = ~np.isfinite(amax)
    scaled = np.clip(np.where(nan, np.float32(1), scaled), np.float32(2**-6), np.float32(448))
    # The exponent is at least -6 here, so that E4M3 is the float32 rounded to 3 mantissa bits.
    bits = scaled.view(np.uint32)
    byte = (bits + 0x7FFFF + ((bits >> 20) & 1) >> 20) - ((127 - 7) << 3)
    rounded = (((byte + ((127 - 7) << 3)) << 20).astype(np.uint32)).view(np.float32)
    factor = (np.float32(1) / tensor_scale) / rounded
    return np.where(nan, NAN_SCALE, byte).astype(np.uint8), factor


def microexponents(x: Floats, amax: Floats) -> NDArray[np.bool_]:
    """Return for each pair of elements whether both lie below the binade of the block's maximum."""
    pairs = exponent_field(x).reshape(len(x), -1, 2).max(axis=2)
    halved: NDArray[np.bool_] = pairs < exponent_field(amax)[:, None]
    return halved


def ladder(format: Format) -> tuple[Floats, Bytes]:
    """Return the element values in rising order and their codes; of -x and x only x if signed."""
    values = np.array(format.values, np.float32)
    values = values[: len(values) // 2] if format.sign_magnitude else values
    codes = np.argsort(values)[: np.count_nonzero(np.isfinite(values))]  # NaN sorts last
    return values[codes], codes.astype(np.uint8)


def thresholds(format: Format, rounding: Rounding) -> Floats:
    """Return the steps of the ladder: value k is meant by thresholds[k-1] < v <= thresholds[k].

    Half-way between two values the even code wins, which for floats and integers is the IEEE rule;
    in the formats with a scale search, whose codes are mere positions, the upper one. A threshold
    that belongs to the value above it is moved down by one float.
    """
    values, codes = ladder(format)
    if rounding is Rounding.TRUNCATE:
        return np.nextafter(values[1:], np.float32(-np.inf))
    middle = (values[1:] + values[:-1]) / np.float32(2)
    upper = (codes[1:] % 2 == 0) | bool(format.scale_steps)
    return np.where(upper, np.nextafter(middle, np.float32(-np.inf)), middle)


def encode(v: Floats, format: Format, rounding: Rounding) -> Bytes:
    """Return the codes of numbers divided by their scale; beyond the ends they saturate."""
    steps = thresholds(format, rounding)
    _, codes = ladder(format)
    if format.sign_magnitude:
        sign = np.where(np.signbit(v), 1 << (format.code_bits - 1), 0).astype(np.uint8)
        return codes[np.searchsorted(steps, np.abs(v))] | sign
    return codes[np.searchsorted(steps, v)]


def search_scale(y: Floats, format: Format) -> tuple[Bytes, Bytes]:
    """Quantize blocks with the S1E4M3 scale, of those tried, that leaves the least squared error.

    y is x / tensor_scale. Tried are the scales at `scale_steps` from the smallest that does not
    clip, each with both signs; the first of equals wins. Without steps it is that smallest scale.
    A negative scale turns a block's values around, which pays where a format has no mirror image of
    each value. In a nested format it is the error of the upper plane that counts: 8 bits are good
    enough with any scale that does not clip. Blocks with NaN or Inf get NAN_SCALE.

    Errors are compared in integers: elements are rounded to multiples of the last mantissa bit of
    the scale where the search starts, then to multiples of the scale that is tried.
    """
    finite = np.all(np.isfinite(y), axis=1)
    y = np.where(finite[:, None], y, np.float32(0))
    start = smallest_scale(np.max(np.abs(y), axis=1), format)
    best = start
    if format.scale_steps:
        values = np.array((format.upper or format).values, np.int64)
        multiples = np.arange(-255, 256)
        distance = np.min(np.abs(multiples[:, None] - values), axis=1)
        exponent = start >> 3
        fixed = np.abs(np.rint(np.ldexp(y, 18 - exponent[:, None])).astype(np.int64))
        negative = np.where(np.signbit(y), -1, 1)
        least = np.full(len(y), np.iinfo(np.int64).max)
        for step in format.scale_steps:
            tried = np.clip(start + step, 0, LARGEST_S1E4M3)
            twice = (8 + (tried & 7)) << (1 + (tried >> 3) - exponent)
            inverse = (2 * 65536 // twice + 1) // 2
            multiple = (fixed * inverse[:, None] + (1 << 14)) >> 15
            for sign, turned in ((0, negative), (128, -negative)):
                error = np.sum(distance[255 + turned * multiple] ** 2, axis=1) * twice**2
                best = np.where(error < least, tried | sign, best)
                least = np.minimum(error, least)
    scales = best.astype(np.uint8)
    codes = encode(y * (np.float32(1) / s1e4m3_values()[scales])[:, None], format, Rounding.EVEN)
    scales[~finite] = NAN_SCALE
    codes[~finite] = 0
    return codes, scales[:, None]


def smallest_scale(amax: Floats, format: Format) -> NDArray[np.int64]:
    """Return the smallest S1E4M3 magnitude 0..126 with largest * scale >= amax (126 if none is)."""
    reach = s1e4m3_values()[: LARGEST_S1E4M3 + 1] * np.float32(format.largest)
    return np.minimum(np.searchsorted(reach, amax), LARGEST_S1E4M3)


def s1e4m3_values() -> Floats:
    """Return the 256 values of a scale byte s.eeee.mmm: (-1)**s * (1 + m/8) * 2**(e - 15)."""
    magnitude = [np.ldexp(8 + m, e - 18) for e in range(16) for m in range(8)]
    values = np.array([*magnitude, *(-value for value in magnitude)], np.float32)
    values[NAN_SCALE] = np.nan
    return values


def e8m0_values() -> Floats:
    """Return the 256 values of an E8M0 byte: 2**(byte - 127), and NaN for 255."""
    values = np.ldexp(np.float32(1), np.arange(256) - 127).astype(np.float32)
    values[NAN_SCALE] = np.nan
    return values


def ue4m3_values() -> Floats:
    """Return the values of an E4M3 byte without sign; 127 and what lies above is NaN."""
    values = np.full(256, np.nan, np.float32)
    values[:127] = float_values(4, 3, 7, 448.0)[:127]
    return values


def tensor_scale(amax: float, format: Format) -> np.float32:
    """Return the scale of a whole tensor with largest finite magnitude `amax`; 1 if it is zero.

    NVFP4: amax / (448 * 6). S1E4M3: the smallest power of two (and normal float) with which the
    largest block scale, 1.75, reaches amax.
    """
    if amax == 0 or not format.has_tensor_scale:
        return np.float32(1)
    if format.scale is Scale.UE4M3:
        return np.float32(max(np.float32(amax) / np.float32(448 * 6), np.finfo(np.float32).tiny))
    fraction, exponent = np.frexp(np.float32(amax) / np.float32(1.75 * format.largest))
    return np.float32(np.ldexp(1.0, max(int(exponent) - (fraction == 0.5), -126)))


def dequantize_blocks(
    codes: Bytes, scales: Bytes, tensor_scale: np.float32, format: Format
) -> Floats:
    """Return the values of codes (n, block) with scales (n, scale_bytes), float32 (n, block)."""
    table = {
        Scale.E8M0: e8m0_values,
        Scale.MICRO: e8m0_values,
        Scale.UE4M3: ue4m3_values,
        Scale.S1E4M3: s1e4m3_values,
    }[format.scale]
    with np.errstate(over="ignore", invalid="ignore"):
        scale = (table()[scales[:, 0]] * tensor_scale)[:, None]
        if format.scale is Scale.MICRO:
            halved = np.unpackbits(scales[:, 1:], axis=1, bitorder="little")
            scale = scale * np.where(np.repeat(halved, 2, axis=1), np.float32(0.5), np.float32(1))
        return np.array(format.values, np.float32)[codes] * scale
