// Quantization and dequantization of rows. Compiled once per instruction set, into the namespace
// that STROP_KERNELS names.

#include <cmath>
#include <cstdlib>

#include "scale_search.hpp"

namespace strop {
namespace {

// ---- Power-of-two scales (E8M0) ----------------------------------------------------------------

INLINE int power_of_two_scale(const Format& f, int32_t amax) {
  if (amax > kInfinity) return kNanScale;
  if (f.rule == Rule::rceil) {
    const int32_t descale = bits_as<int32_t>(bits_as<float>(amax) / f.largest);
    const int field = descale >> 23, fraction = descale & 0x7FFFFF;
    const int byte = field + (field == 0 ? fraction > 0x400000 : fraction > 0);
    return byte < 254 ? byte : 254;
  }
  uint32_t bits = uint32_t(amax);
  if (f.rule == Rule::even) bits += 1u << (23 - f.mantissa_bits - 1);
  const int carry = f.rule == Rule::ceil && (bits & 0x7FFFFF) > 0;
  return clamp(int(bits >> 23) + carry - f.largest_exponent, 0, kNanScale);
}

// See `multiplier` in the reference for byte 0.
INLINE float multiplier(const Format& f, int byte) {
  if (byte == 0 && f.largest_exponent > 0) byte = f.rule == Rule::rceil ? 127 : 1;
  return power_of_two(127 - (byte < 254 ? byte : 254));
}

template <int B>
void quantize_e8m0(const Format& f, const float* x, uint8_t* codes, uint8_t* scale) {
  const int byte = power_of_two_scale(f, largest_bits<B>(x));
  scale[0] = uint8_t(byte);
  encode_block<B>(f, x, multiplier(f, byte), codes);
  if (byte == kNanScale) std::memset(codes, 0, B);
}

// A pair whose exponents both lie below that of the block has half its scale.
void quantize_micro(const Format& f, const float* x, uint8_t* codes, uint8_t* scale) {
  const int32_t amax = largest_bits<16>(x);
  const int byte = power_of_two_scale(f, amax);
  const float factor = multiplier(f, byte);
  const Ints swapped_lanes = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
  const Floats v = load(x);
  const Ints magnitude = magnitude_bits(v);
  Ints swapped;
  for (int i = 0; i < kLanes; i++) swapped[i] = magnitude[swapped_lanes[i]];
  const Ints halved = larger(magnitude, swapped) >> 23 < (amax >> 23);
  int micro = 0;
  for (int i = 0; i < kLanes; i += 2) micro |= (halved[i] & 1) << (i / 2);
  scale[0] = uint8_t(byte);
  scale[1] = uint8_t(micro);
  store(encode(f, halved ? v * (2 * factor) : v * factor), codes);
  if (byte == kNanScale) std::memset(codes, 0, kLanes);
}

// ---- NVFP4 -------------------------------------------------------------------------------------

template <int B>
void quantize_ue4m3(const Format& f, const float* x, float whole, uint8_t* codes, uint8_t* scale) {
  const int32_t amax = largest_bits<B>(x);
  const bool finite = amax < kInfinity;
  float scaled = finite ? bits_as<float>(amax) / 6.0f / whole : 1.0f;
  scaled = scaled > 0x1p-6f ? scaled : 0x1p-6f;
  scaled = scaled < 448.0f ? scaled : 448.0f;
  const uint32_t bits = bits_as<uint32_t>(scaled);
  const uint32_t rounded = (bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20;
  scale[0] = finite ? uint8_t(rounded - ((127 - 7) << 3)) : kNanScale;
  encode_block<B>(f, x, (1.0f / whole) / bits_as<float>(rounded << 20), codes);
  if (!finite) std::memset(codes, 0, B);
}

// ---- S1E4M3 ------------------------------------------------------------------------------------

// Quantize `blocks` blocks of 64 elements; codes has room for 64.
template <int B>
INLINE void quantize_group(const Format& f, const Search& search, float* y, uint8_t* codes,
                           uint8_t* scales, int blocks) {
  constexpr int kBlocks = kGroup / B;
  int start[kBlocks], best[kBlocks];
  float factor[kBlocks];
  bool finite[kBlocks];
  for (int block = 0; block < kBlocks; block++) {
    const int32_t amax = largest_bits<B>(y + block * B);
    finite[block] = amax < kInfinity;
    if (!finite[block]) std::memset(y + block * B, 0, B * sizeof(float));
    start[block] = finite[block] ? smallest_scale(f, bits_as<float>(amax)) : 0;
  }
  search_group<B>(f, search, y, start, best);
  for (int block = 0; block < kBlocks; block++) {
    const int byte = tried_scale(f, start[block], best[block] / 2) | (best[block] & 1) << 7;
    factor[block] = 1.0f / s1e4m3(byte);
    if (block < blocks) scales[block] = finite[block] ? uint8_t(byte) : kNanScale;
  }
  encode_group<B>(search, y, factor, codes);
  for (int block = 0; block < blocks; block++)
    if (!finite[block]) std::memset(codes + block * B, 0, B);
}

template <int B>
void quantize_searched(const Format& f, const Search& search, const float* x, int64_t cols,
                       float whole, uint8_t* codes, uint8_t* scales) {
  const float inverse = 1.0f / whole;  // a power of two: exact
  const Floats scale = inverse + Floats{};
  for (int64_t start = 0; start < cols; start += kGroup) {
    alignas(64) float y[kGroup];
    const int64_t count = cols - start < kGroup ? cols - start : kGroup;
    if (count == kGroup) {
      for (int i = 0; i < kGroup; i += kLanes) {
        const Floats v = load(x + start + i) * scale;
        std::memcpy(y + i, &v, sizeof v);
      }
    } else {
      for (int i = 0; i < kGroup; i++) y[i] = i < count ? x[start + i] * inverse : 0.0f;
    }
    const int blocks = int(ceil_divide(count, B));
    quantize_group<B>(f, search, y, codes + start, scales + start / B, blocks);
  }
}

// One block with the smallest scale that does not clip.
template <int B>
void quantize_s1e4m3(const Format& f, const float* x, float whole, uint8_t* codes, uint8_t* scale) {
  const int32_t amax = largest_bits<B>(x);
  if (amax >= kInfinity) {
    scale[0] = kNanScale;
    std::memset(codes, 0, B);
    return;
  }
  const float inverse = 1.0f / whole;  // a power of two: exact
  alignas(64) float y[B];
  for (int i = 0; i < B; i++) y[i] = x[i] * inverse;
  const int byte = smallest_scale(f, bits_as<float>(amax) * inverse);
  scale[0] = uint8_t(byte);
  encode_block<B>(f, y, 1.0f / s1e4m3(byte), codes);
}

// ---- Rows --------------------------------------------------------------------------------------

// Eight codes of `bits` bits, a byte each, become 8 * bits bits without gaps; and back.
#ifdef __AVX512VBMI__  // whose processors all have a fast PEXT
inline uint64_t squeeze(uint64_t x, int bits) {
  return _pext_u64(x, 0x0101010101010101ull * ((1u << bits) - 1));
}
#else
inline uint64_t squeeze(uint64_t x, int bits) {
  x = (x & 0x00FF00FF00FF00FF) | ((x & 0xFF00FF00FF00FF00) >> (8 - bits));
  x = (x & 0x0000FFFF0000FFFF) | ((x & 0xFFFF0000FFFF0000) >> (16 - 2 * bits));
  return (x & 0xFFFFFFFF) | (x >> 32 << 4 * bits);
}
#endif

inline uint64_t spread(uint64_t x, int bits) {
  const uint64_t one = (1u << bits) - 1, two = (1u << 2 * bits) - 1, four = (1ull << 4 * bits) - 1;
  x = (x & four) | ((x >> 4 * bits & four) << 32);
  x = (x & (two | two << 32)) | ((x >> 2 * bits & (two | two << 32)) << 16);
  const uint64_t ones = one | one << 16 | one << 32 | one << 48;
  return (x & ones) | ((x >> bits & ones) << 8);
}

// All but the last bytes of a row move eight at a time: a fixed size is one instruction.
void pack_row(const uint8_t* codes, int64_t cols, int bits, uint8_t* packed) {
  const int64_t bytes = ceil_divide(cols * bits, 8);
  if (bits == 4) {  // a loop that the compiler turns into vectors
    for (int64_t i = 0; i < bytes; i++) packed[i] = uint8_t(codes[2 * i] | codes[2 * i + 1] << 4);
    return;
  }
  for (int64_t i = 0, at = 0; at < bytes; i += 8, at += bits) {
    uint64_t eight;
    std::memcpy(&eight, codes + i, 8);
    eight = squeeze(eight, bits);
    if (at + 8 <= bytes) std::memcpy(packed + at, &eight, 8);
    else std::memcpy(packed + at, &eight, size_t(bytes - at < bits ? bytes - at : bits));
  }
}

void unpack_row(const uint8_t* packed, int64_t cols, int bits, uint8_t* codes) {
  const int64_t bytes = ceil_divide(cols * bits, 8);
  for (int64_t i = 0, at = 0; at < bytes; i += 8, at += bits) {
    uint64_t eight = 0;
    if (at + 8 <= bytes) std::memcpy(&eight, packed + at, 8);
    else std::memcpy(&eight, packed + at, size_t(bytes - at));
    eight = spread(eight, bits);
    std::memcpy(codes + i, &eight, 8);
  }
}

// Codes of 8 bits in two planes of 4.
void pack_halves(const uint8_t* codes, int64_t cols, uint8_t* upper, uint8_t* lower) {
  for (int64_t i = 0; i < ceil_divide(cols, 2); i++) {
    const uint8_t even = codes[2 * i], odd = codes[2 * i + 1];
    upper[i] = uint8_t(even >> 4 | (odd & 0xF0));
    lower[i] = uint8_t((even & 0x0F) | odd << 4);
  }
}

void unpack_halves(const uint8_t* upper, const uint8_t* lower, int64_t cols, uint8_t* codes) {
  for (int64_t i = 0; i < ceil_divide(cols, 2); i++) {
    codes[2 * i] = uint8_t(upper[i] << 4 | (lower[i] & 0x0F));
    codes[2 * i + 1] = uint8_t((upper[i] & 0xF0) | lower[i] >> 4);
  }
}

template <int B>
void quantize_block(const Format& f, const float* x, float whole, uint8_t* codes, uint8_t* scale) {
  switch (f.scale) {
    case Scale::s1e4m3: return quantize_s1e4m3<B>(f, x, whole, codes, scale);
    case Scale::ue4m3: return quantize_ue4m3<B>(f, x, whole, codes, scale);
    case Scale::micro: return quantize_micro(f, x, codes, scale);
    default: return quantize_e8m0<B>(f, x, codes, scale);
  }
}

template <int B>
void quantize_blocks(const Format& f, const float* x, int64_t cols, float whole, uint8_t* codes,
                     uint8_t* scales) {
  const int scale_bytes = f.scale == Scale::micro ? 2 : 1;
  for (int64_t start = 0; start < cols; start += B, scales += scale_bytes) {
    const float* source = x + start;
    float padded[B];
    if (start + B > cols) {  // a ragged last block is filled up with zeros
      for (int i = 0; i < B; i++) padded[i] = start + i < cols ? source[i] : 0.0f;
      source = padded;
    }
    quantize_block<B>(f, source, whole, codes + start, scales);
  }
}

template <int B>
void quantize_rows(const Format& f, const Tensor& t, int64_t first, int64_t last) {
  const int64_t blocks = ceil_divide(t.cols, B);
  const int64_t row_bytes = ceil_divide(t.cols * f.plane_bits(), 8);
  const int64_t row_scales = blocks * (f.scale == Scale::micro ? 2 : 1);
  uint8_t* codes = static_cast<uint8_t*>(std::calloc(size_t(t.cols + kGroup), 1));
  Search search;
  if (f.steps) fill(f, search);
  for (int64_t row = first; row < last; row++) {
    const float* x = t.values + row * t.cols;
    uint8_t* scales = t.scales + row * row_scales;
    if (!f.steps) quantize_blocks<B>(f, x, t.cols, t.scale, codes, scales);
    else quantize_searched<B>(f, search, x, t.cols, t.scale, codes, scales);
    if (t.cols % 8) std::memset(codes + t.cols, 0, size_t(8 - t.cols % 8));  // unused bits are 0
    uint8_t* packed = t.codes + row * row_bytes;
    if (f.planes == 1) pack_row(codes, t.cols, f.code_bits, packed);
    else pack_halves(codes, t.cols, packed, packed + t.rows * row_bytes);
  }
  std::free(codes);
}

float scale_value(Scale kind, int byte) {
  if (kind == Scale::s1e4m3) return byte == kNanScale ? NAN : s1e4m3(byte);
  if (kind == Scale::ue4m3) {
    if (byte >= 127) return NAN;
    const int exponent = byte >> 3, mantissa = byte & 7;
    return exponent ? float(8 + mantissa) * power_of_two(exponent - 10)
                    : float(mantissa) * power_of_two(-9);
  }
  return byte == kNanScale ? NAN : power_of_two(byte - 127);
}

template <int B>
void dequantize_rows(const Format& f, const Tensor& t, int64_t first, int64_t last) {
  const int64_t blocks = ceil_divide(t.cols, B);
  const int64_t row_bytes = ceil_divide(t.cols * f.plane_bits(), 8);
  const bool micro = f.scale == Scale::micro;
  float scale_of[256];
  for (int byte = 0; byte < 256; byte++) scale_of[byte] = scale_value(f.scale, byte) * t.scale;
  uint8_t* codes = static_cast<uint8_t*>(std::calloc(size_t(blocks * B + 8), 1));
  for (int64_t row = first; row < last; row++) {
    const uint8_t* packed = t.codes + row * row_bytes;
    if (f.planes == 1) unpack_row(packed, t.cols, f.code_bits, codes);
    else unpack_halves(packed, packed + t.rows * row_bytes, t.cols, codes);
    const uint8_t* scales = t.scales + row * blocks * (micro ? 2 : 1);
    float* y = t.restored + row * t.cols;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t start = block * B;
      const int count = int(t.cols - start < B ? t.cols - start : B);
      const float scale = scale_of[scales[micro ? 2 * block : block]];
      for (int i = 0; i < count; i++) y[start + i] = f.values[codes[start + i]] * scale;
      if (micro)
        for (int i = 0; i < count; i++)
          if (scales[2 * block + 1] >> (i / 2) & 1)
            y[start + i] = f.values[codes[start + i]] * (scale * 0.5f);
    }
  }
  std::free(codes);
}

void quantize(const Format& f, const Tensor& t, int64_t first, int64_t last) {
  (f.block == 16 ? quantize_rows<16> : quantize_rows<32>)(f, t, first, last);
}

void dequantize(const Format& f, const Tensor& t, int64_t first, int64_t last) {
  (f.block == 16 ? dequantize_rows<16> : dequantize_rows<32>)(f, t, first, last);
}

float largest_finite(const float* x, int64_t count) {
  Ints largest{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Ints magnitude = magnitude_bits(load(x + i));
    largest = larger(largest, magnitude < kInfinity ? magnitude : Ints{});
  }
  int32_t most = largest_lane(largest);
  for (; i < count; i++) {
    const int32_t magnitude = bits_as<int32_t>(x[i]) & 0x7FFFFFFF;
    if (magnitude < kInfinity && magnitude > most) most = magnitude;
  }
  return bits_as<float>(most);
}

}  // namespace

namespace STROP_KERNELS {
extern const Kernels kernels = {quantize, dequantize, largest_finite};
}

}  // namespace strop
