// Quantization and dequantization of rows. Compiled once per instruction set, into the namespace
// that STROP_ISA names; everything else stays in an anonymous namespace, so that the linker cannot
// mix code of two sets. Sixteen numbers make a vector, which the compiler maps onto the registers
// there are; only the scale search is also written with AVX-512 intrinsics.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "quantize.hpp"

#ifdef __AVX512VBMI__
#include <immintrin.h>
#endif

namespace strop {
namespace {

constexpr int kNanScale = 255;
constexpr int kLargestS1E4M3 = 126;
constexpr int32_t kInfinity = 0x7F800000;
constexpr int kLanes = 16;

using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Shorts = int16_t __attribute__((vector_size(32)));
using Codes = uint8_t __attribute__((vector_size(16)));
#define INLINE inline __attribute__((always_inline))

template <typename To, typename From>
INLINE To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

INLINE float power_of_two(int exponent) {  // exponent in -149..127
  return exponent >= -126 ? bits_as<float>(uint32_t(exponent + 127) << 23)
                          : bits_as<float>(1u << (exponent + 149));
}
INLINE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
INLINE int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
INLINE Ints smaller(Ints a, Ints b) { return a < b ? a : b; }
INLINE Floats load(const float* x) { Floats v; std::memcpy(&v, x, sizeof v); return v; }
INLINE Ints magnitude_bits(Floats x) { return bits_as<Ints>(x) & 0x7FFFFFFF; }

#ifdef __AVX512VBMI__
INLINE int32_t largest_lane(Ints v) { return _mm512_reduce_max_epi32(bits_as<__m512i>(v)); }
#else
INLINE int32_t largest_lane(Ints v) {
  int32_t most = v[0];
  for (int i = 1; i < kLanes; i++) most = v[i] > most ? v[i] : most;
  return most;
}
#endif

// Round to the nearest integer, ties to even, for |x| < 2**22: adding 1.5 * 2**23 leaves no room
// for a fraction, and the integer stands in the low bits.
INLINE Ints round_even(Floats x) { return bits_as<Ints>(x + 0x1.8p23f) - 0x4B400000; }

// ---- Elements: numbers, divided by their scale, become codes -----------------------------------

INLINE Ints encode_sign_magnitude(const Format& f, Floats v) {
  const int smallest = f.smallest_exponent + 127, mantissa = f.mantissa_bits;
  const Ints bits = bits_as<Ints>(v);
  const Ints magnitude = smaller(bits & 0x7FFFFFFF, bits_as<int32_t>(f.largest) + Ints{});
  const Ints exponent = larger(magnitude >> 23, smallest + Ints{});
  // The mantissa, hidden bit included, as an integer: subnormals just stay below the hidden bit.
  const Floats scaled = bits_as<Floats>(magnitude) * bits_as<Floats>((254 + mantissa - exponent) << 23);
  const Ints integer = f.truncate ? __builtin_convertvector(scaled, Ints) : round_even(scaled);
  const Ints sign = (bits >> (32 - f.code_bits)) & (1 << (f.code_bits - 1));
  return (((exponent - smallest) << mantissa) + integer) | sign;
}

INLINE Ints encode_twos_complement(const Format& f, Floats v) {
  Floats scaled = v * power_of_two(-f.smallest_exponent);
  const Floats most = f.largest * power_of_two(-f.smallest_exponent) + Floats{};
  scaled = scaled > -most ? scaled : -most;
  scaled = scaled < most ? scaled : most;
  return round_even(scaled) & ((1 << f.code_bits) - 1);
}

INLINE Ints encode_offset_integer(const Format& f, Floats v) {
  const Floats most = f.largest + Floats{};
  v = v > -most ? v : -most;
  v = v < most ? v : most;
  return round_even(v) + (1 << (f.code_bits - 1));
}

INLINE Ints encode(const Format& f, Floats v) {
  switch (f.element) {
    case Element::sign_magnitude: return encode_sign_magnitude(f, v);
    case Element::twos_complement: return encode_twos_complement(f, v);
    default: return encode_offset_integer(f, v);
  }
}

INLINE void store(Ints code, uint8_t* codes) {
  const Codes narrow = __builtin_convertvector(code, Codes);
  std::memcpy(codes, &narrow, sizeof narrow);
}

// Encode a block times a factor.
template <int B>
INLINE void encode_block(const Format& f, const float* x, float factor, uint8_t* codes) {
  for (int i = 0; i < B; i += kLanes) store(encode(f, load(x + i) * factor), codes + i);
}

// The largest magnitude as bits: NaN, if there is one, is above infinity.
template <int B>
INLINE int32_t largest_bits(const float* x) {
  Ints largest{};
  for (int i = 0; i < B; i += kLanes) largest = larger(largest, magnitude_bits(load(x + i)));
  return largest_lane(largest);
}

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

// ---- Scale search (S1E4M3) ---------------------------------------------------------------------

INLINE float s1e4m3(int byte) {
  const uint32_t magnitude = uint32_t(((127 - 15) << 3) + (byte & 127)) << 20;
  return bits_as<float>(magnitude | uint32_t(byte & 128) << 24);  // no branch: signs are random
}

// The smallest magnitude 0..126 with largest * scale >= amax, or 126. The exponent and the first
// three mantissa bits of amax / largest give it, but for the rounding of that division.
INLINE int smallest_scale(const Format& f, float amax) {
  int guess = int(bits_as<uint32_t>(amax / f.largest) >> 20) - ((127 - 15) << 3) - 1;
  guess = clamp(guess, 0, kLargestS1E4M3);
  const int above = (s1e4m3(guess) * f.largest < amax) + (s1e4m3(guess + 1) * f.largest < amax);
  return clamp(guess + above, 0, kLargestS1E4M3);
}

// The search is in fixed point: elements are multiples of a quarter of the last mantissa bit of the
// scale it starts from. A scale of exponent e + d and mantissa m is then (8 + m) << (2 + d), and
// ladder 8 * (1 + d) + m is the format's ladder times that scale: all integers below 2**15.

// The search compares errors in integers. Elements are rounded to multiples of the last mantissa bit
// of the scale that the search starts from; (8 + m) << (1 + d) is then twice a scale of mantissa m
// whose exponent is higher by d, and `inverse` turns elements into multiples of it. The error of
// such a multiple is looked up, squared, and weighted with the square of the scale.
constexpr int kGroup = 64;  // elements that are searched together: 4 blocks of 16 or 2 of 32

struct Search {
  alignas(64) uint8_t error[2][256];  // distance of a magnitude to the nearest value, by its sign
  alignas(64) int16_t inverse[32];    // by 8 * (1 + d) + m
  alignas(64) int32_t weight[32];
  alignas(64) float threshold[6][32];  // for the binary search of `encode_ladder`
};

inline int distance(const Format& f, float value) {
  float least = 255;
  for (int k = 0; k < 1 << f.code_bits; k++) {
    const float d = value > f.values[k] ? value - f.values[k] : f.values[k] - value;
    least = d < least ? d : least;
  }
  return int(least);
}

void fill(const Format& f, Search& search) {
  for (int v = 0; v < 256; v++) {
    search.error[0][v] = uint8_t(distance(f, float(v)));
    search.error[1][v] = uint8_t(distance(f, float(-v)));
  }
  for (int row = 0; row < 24; row++) {
    const int twice = (8 + row % 8) << (row / 8);
    search.inverse[row] = int16_t((2 * 65536 / twice + 1) / 2);
    search.weight[row] = twice * twice;
  }
  // Level l compares with thresholds that the outcomes so far select; bit l of the index is its
  // outcome, and the table of the level is in the order of that index.
  for (int index = 0; index < 1 << f.code_bits; index++) {
    int position = 0;
    for (int level = 0; level < f.code_bits; level++) {
      const int half = 1 << (f.code_bits - 1 - level);
      if (index < 1 << level) search.threshold[level][index] = f.thresholds[position + half - 1];
      position += index >> level & 1 ? half : 0;
    }
  }
}

// The row of the tables for a step away from the scale where the search starts.
INLINE int tried_scale(const Format& f, int start, int step) {
  return clamp(start + f.steps[step], 0, kLargestS1E4M3);
}

#ifdef __AVX512VBMI__

template <int Bits>
INLINE Ints encode_ladder(const Search& search, Floats v) {
  const __m512 y = bits_as<__m512>(v);
  __m512i index = _mm512_setzero_si512(), code = _mm512_setzero_si512();
#pragma GCC unroll 6
  for (int level = 0; level < Bits; level++) {
    const float* table = search.threshold[level];
    __m512 threshold = _mm512_load_ps(table);
    if (level == 5) threshold = _mm512_permutex2var_ps(threshold, index, _mm512_load_ps(table + 16));
    else threshold = _mm512_permutexvar_ps(index, threshold);
    const __mmask16 above = _mm512_cmp_ps_mask(y, threshold, _CMP_GT_OQ);
    index = _mm512_mask_add_epi32(index, above, index, _mm512_set1_epi32(1 << level));
    code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1 << (Bits - 1 - level)));
  }
  return bits_as<Ints>(code);
}

// Sums of neighbours: lane 4i + j of the result is the sum of lanes 4i to 4i + 3 of the j-th.
INLINE __m512i sums_of_four(const __m512i* a) {
  const __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]),
                                       _mm512_unpackhi_epi32(a[0], a[1]));
  const __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]),
                                        _mm512_unpackhi_epi32(a[2], a[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
}

INLINE __m512i four_lanes(const __m128i* a) {
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(a[0]), a[1], 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(a[2]), a[3], 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// The rows of the tables for the scales that a step leads to, in lanes of 32 bits. `from` is where
// the search of each block starts, `base` takes out its exponent. Clipping to the scales there are
// is left out where no block needs it, as is usual.
template <bool Clip>
INLINE __m512i table_rows(__m512i from, __m512i base, __m512i step) {
  __m512i tried = _mm512_add_epi32(from, step);
  if constexpr (Clip)
    tried = _mm512_min_epi32(_mm512_set1_epi32(kLargestS1E4M3),
                             _mm512_max_epi32(_mm512_setzero_si512(), tried));
  return _mm512_sub_epi32(tried, base);
}

// The lanes of 128 bits hold sixteen elements each, as bytes; a block is one lane or two.
template <int B, bool Clip>
INLINE void search_lanes(const Format& f, const Search& search, const float* y, const int* start,
                         int* best) {
  __m128i low[4], high[4], starts[4];
  __mmask64 negative = 0;
  for (int lane = 0; lane < 4; lane++) {
    const int first = start[lane * 16 / B];
    const __m512 x = _mm512_load_ps(y + 16 * lane);
    const __m512 unit = _mm512_set1_ps(power_of_two(18 - (first >> 3)));
    const __m512i units = _mm512_cvtps_epi32(_mm512_mul_ps(x, unit));
    const __m256i fixed = _mm512_cvtepi32_epi16(_mm512_abs_epi32(units));
    low[lane] = _mm256_castsi256_si128(fixed);
    high[lane] = _mm256_extracti128_si256(fixed, 1);
    starts[lane] = _mm_set1_epi32(first);
    negative |= __mmask64(_mm512_movepi32_mask(_mm512_castps_si512(x))) << (16 * lane);
  }
  const __m512i y0 = four_lanes(low), y1 = four_lanes(high), from = four_lanes(starts);
  const __m512i base = _mm512_sub_epi32(_mm512_and_epi32(from, _mm512_set1_epi32(~7)),
                                        _mm512_set1_epi32(8));
  const __m512i inverses = _mm512_load_si512(search.inverse);
  const __m512i up0 = _mm512_load_si512(search.error[0]);
  const __m512i up1 = _mm512_load_si512(search.error[0] + 64);
  const __m512i down0 = _mm512_load_si512(search.error[1]);
  const __m512i down1 = _mm512_load_si512(search.error[1] + 64);
  // Beyond 127 the nearest value is the last one of the ladder.
  const __m512i top = _mm512_set1_epi8(char(f.values[(1 << f.code_bits) - 1]));
  const __m512i bottom = _mm512_set1_epi8(char(-f.values[0]));
  static_assert(kSteps == 4);
  __m512i squares[2 * kSteps];
#pragma GCC unroll 4
  for (int step = 0; step < kSteps; step++) {
    const __m512i rows = table_rows<Clip>(from, base, _mm512_set1_epi32(f.steps[step]));
    // An element of 16 bits needs its row in 16 bits: copy the low half into the high one.
    const __m512i inverse = _mm512_permutexvar_epi16(
        _mm512_or_si512(rows, _mm512_slli_epi32(rows, 16)), inverses);
    const __m512i v = _mm512_packus_epi16(_mm512_mulhrs_epi16(y0, inverse),
                                          _mm512_mulhrs_epi16(y1, inverse));
    const __mmask64 beyond = _mm512_movepi8_mask(v);
    __m512i up = _mm512_permutex2var_epi8(up0, v, up1);
    __m512i down = _mm512_permutex2var_epi8(down0, v, down1);
    up = _mm512_mask_sub_epi8(up, beyond, v, top);
    down = _mm512_mask_sub_epi8(down, beyond, v, bottom);
    const __m512i plus = _mm512_mask_blend_epi8(negative, up, down);
    const __m512i minus = _mm512_mask_blend_epi8(negative, down, up);
    squares[2 * step] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), plus, plus);
    squares[2 * step + 1] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), minus, minus);
  }
  const __m512i weights0 = _mm512_load_si512(search.weight);
  const __m512i weights1 = _mm512_load_si512(search.weight + 16);
  __m512i errors[2];  // of two steps each, with both signs
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    __m512i sums = sums_of_four(squares + 4 * half);
    if constexpr (B == 32) sums = _mm512_add_epi32(sums, _mm512_shuffle_i64x2(sums, sums, 0xB1));
    const int a = f.steps[2 * half], b = f.steps[2 * half + 1];
    const __m512i rows =
        table_rows<Clip>(from, base, _mm512_broadcast_i32x4(_mm_set_epi32(b, b, a, a)));
    errors[half] = _mm512_mullo_epi32(sums, _mm512_permutex2var_epi32(weights0, rows, weights1));
  }
  __m512i least = _mm512_min_epi32(errors[0], errors[1]);
  least = _mm512_min_epi32(least, _mm512_shuffle_epi32(least, _MM_PERM_BADC));
  least = _mm512_min_epi32(least, _mm512_shuffle_epi32(least, _MM_PERM_CDAB));
  const uint32_t equal[2] = {_mm512_cmpeq_epi32_mask(errors[0], least),
                             _mm512_cmpeq_epi32_mask(errors[1], least)};
  for (int block = 0; block < kGroup / B; block++) {
    const int lane = block * B / 4;
    best[block] = __builtin_ctz((equal[0] >> lane & 15) | (equal[1] >> lane & 15) << 4);
  }
}

template <int B>
INLINE void search_group(const Format& f, const Search& search, const float* y, const int* start,
                         int* best) {
  bool clip = false;
  for (int i = 0; i < kGroup / B; i++) clip |= start[i] < 8 || start[i] > kLargestS1E4M3 - 8;
  if (clip) search_lanes<B, true>(f, search, y, start, best);
  else search_lanes<B, false>(f, search, y, start, best);
}

#else

template <int Bits>
INLINE Ints encode_ladder(const Search& search, Floats v) {
  Ints code{};
  for (int i = 0; i < kLanes; i++) {
    int index = 0;
    for (int level = 0; level < Bits; level++) {
      const int above = v[i] > search.threshold[level][index];
      index |= above << level;
      code[i] |= above << (Bits - 1 - level);
    }
  }
  return code;
}

template <int B>
void search_group(const Format& f, const Search& search, const float* y, const int* start,
                  int* best) {
  for (int block = 0; block < kGroup / B; block++, y += B) {
    const float unit = power_of_two(18 - (start[block] >> 3));
    alignas(64) int32_t fixed[B], v[B];
    const uint8_t* errors[2][B];
    for (int i = 0; i < B; i += kLanes) {
      const Ints rounded = round_even(load(y + i) * unit);
      const Ints magnitude = larger(rounded, -rounded);
      std::memcpy(fixed + i, &magnitude, sizeof magnitude);
    }
    for (int i = 0; i < B; i++) {
      const int negative = int(bits_as<uint32_t>(y[i]) >> 31);
      errors[0][i] = search.error[negative];
      errors[1][i] = search.error[1 - negative];
    }
    int32_t least = std::numeric_limits<int32_t>::max();
    for (int step = 0; step < kSteps; step++) {
      const int row = tried_scale(f, start[block], step) - (start[block] & ~7) + 8;
      const int inverse = search.inverse[row];
      for (int i = 0; i < B; i++) v[i] = (fixed[i] * inverse + (1 << 14)) >> 15;
      for (int sign = 0; sign < 2; sign++) {
        int32_t sum = 0;
        for (int i = 0; i < B; i++) sum += int32_t(errors[sign][i][v[i]]) * errors[sign][i][v[i]];
        const int32_t error = sum * search.weight[row];
        best[block] = error < least ? 2 * step + sign : best[block];
        least = error < least ? error : least;
      }
    }
  }
}

#endif

// Quantize up to 64 elements; y has room for 64.
template <int B, int Bits>
INLINE void quantize_group(const Format& f, const Search& search, float* y, uint8_t* codes,
                    uint8_t* scales, int blocks) {
  constexpr int kBlocks = kGroup / B;
  int start[kBlocks], best[kBlocks];
  bool finite[kBlocks];
  for (int block = 0; block < kBlocks; block++) {
    const int32_t amax = largest_bits<B>(y + block * B);
    finite[block] = amax < kInfinity;
    if (!finite[block]) std::memset(y + block * B, 0, B * sizeof(float));
    start[block] = finite[block] ? smallest_scale(f, bits_as<float>(amax)) : 0;
  }
  search_group<B>(f, search, y, start, best);
  for (int block = 0; block < blocks; block++) {
    const int byte = tried_scale(f, start[block], best[block] / 2) | (best[block] & 1) << 7;
    const float factor = 1.0f / s1e4m3(byte);
    for (int i = block * B; i < (block + 1) * B; i += kLanes)
      store(encode_ladder<Bits>(search, load(y + i) * factor), codes + i);
    if (!finite[block]) std::memset(codes + block * B, 0, B);
    scales[block] = finite[block] ? uint8_t(byte) : kNanScale;
  }
}

template <int B, int Bits>
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
    quantize_group<B, Bits>(f, search, y, codes + start, scales + start / B, blocks);
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
  return _pext_u64(x, 0x0101010101010101 * ((1u << bits) - 1));
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
  const int64_t blocks = ceil_divide(t.cols, B), row_bytes = ceil_divide(t.cols * f.code_bits, 8);
  const int64_t row_scales = blocks * (f.scale == Scale::micro ? 2 : 1);
  uint8_t* codes = static_cast<uint8_t*>(std::calloc(size_t(t.cols + kGroup), 1));
  Search search;
  if (f.steps) fill(f, search);
  for (int64_t row = first; row < last; row++) {
    const float* x = t.values + row * t.cols;
    uint8_t* scales = t.scales + row * row_scales;
    if (!f.steps) quantize_blocks<B>(f, x, t.cols, t.scale, codes, scales);
    else if (f.code_bits == 4) quantize_searched<B, 4>(f, search, x, t.cols, t.scale, codes, scales);
    else if (f.code_bits == 5) quantize_searched<B, 5>(f, search, x, t.cols, t.scale, codes, scales);
    else quantize_searched<B, 6>(f, search, x, t.cols, t.scale, codes, scales);
    if (t.cols % 8) std::memset(codes + t.cols, 0, size_t(8 - t.cols % 8));  // unused bits are 0
    pack_row(codes, t.cols, f.code_bits, t.codes + row * row_bytes);
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
  const int64_t blocks = ceil_divide(t.cols, B), row_bytes = ceil_divide(t.cols * f.code_bits, 8);
  const bool micro = f.scale == Scale::micro;
  float scale_of[256];
  for (int byte = 0; byte < 256; byte++) scale_of[byte] = scale_value(f.scale, byte) * t.scale;
  uint8_t* codes = static_cast<uint8_t*>(std::calloc(size_t(blocks * B + 8), 1));
  for (int64_t row = first; row < last; row++) {
    unpack_row(t.codes + row * row_bytes, t.cols, f.code_bits, codes);
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

namespace STROP_ISA {
extern const Kernels kernels = {quantize, dequantize, largest_finite};
}

}  // namespace strop
