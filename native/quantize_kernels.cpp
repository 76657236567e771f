// Quantization and dequantization of rows. Compiled once per instruction set, into the namespace
// that STROP_ISA names; everything else stays in an anonymous namespace, so that the linker cannot
// mix code of two sets. Sixteen numbers make a vector, which the compiler maps onto the registers
// there are; only the scale search is also written with AVX-512 intrinsics.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "quantize.hpp"

#ifdef __AVX512BW__
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

template <typename Half, typename Whole>
INLINE Half halves_max(Whole v) {
  Half low, high;
  std::memcpy(&low, &v, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
  return low > high ? low : high;
}

INLINE int32_t largest_lane(Ints v) {
  using Eight = int32_t __attribute__((vector_size(32)));
  using Four = int32_t __attribute__((vector_size(16)));
  const Four four = halves_max<Four>(halves_max<Eight>(v));
  const int32_t a = four[0] > four[1] ? four[0] : four[1];
  const int32_t b = four[2] > four[3] ? four[2] : four[3];
  return a > b ? a : b;
}

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

#ifdef __AVX512BW__

// A binary search in registers: level l compares with midpoints that the outcomes so far select,
// and bit l of the index is its outcome. The tables are in the order of that index.
struct Ladder {
  alignas(64) int16_t middle[6][32];
  alignas(64) int16_t value[64];
};

// Call visit(level, index, k) for the step k that level compares with after the outcomes `index`.
template <typename Visit>
int walk(int bits, int index, Visit visit) {
  int position = 0;
  for (int level = 0; level < bits; level++) {
    const int half = 1 << (bits - 1 - level);
    if (index < 1 << level) visit(level, index, position + half);
    position += index >> level & 1 ? half : 0;
  }
  return position;
}

// The same for elements: thresholds between codes.
struct Thresholds {
  alignas(64) float middle[6][32];
};

void fill(const Format& f, Thresholds& thresholds) {
  for (int index = 0; index < 1 << f.code_bits; index++)
    walk(f.code_bits, index, [&](int level, int at, int k) {
      thresholds.middle[level][at] = f.thresholds[k - 1];
    });
}

template <int Bits>
INLINE Ints encode_ladder(const Thresholds& thresholds, Floats v) {
  const __m512 y = bits_as<__m512>(v);
  __m512i index = _mm512_setzero_si512(), code = _mm512_setzero_si512();
#pragma GCC unroll 6
  for (int level = 0; level < Bits; level++) {
    const float* table = thresholds.middle[level];
    __m512 middle = _mm512_load_ps(table);
    if (level == 5) middle = _mm512_permutex2var_ps(middle, index, _mm512_load_ps(table + 16));
    else middle = _mm512_permutexvar_ps(index, middle);
    const __mmask16 above = _mm512_cmp_ps_mask(y, middle, _CMP_GT_OQ);
    index = _mm512_mask_add_epi32(index, above, index, _mm512_set1_epi32(1 << level));
    code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1 << (Bits - 1 - level)));
  }
  return bits_as<Ints>(code);
}

void fill(const Format& f, int half_scale, Ladder& ladder) {
  for (int index = 0; index < 1 << f.code_bits; index++) {
    const int position = walk(f.code_bits, index, [&](int level, int at, int k) {
      ladder.middle[level][at] = int16_t((f.values[k - 1] + f.values[k]) * half_scale);
    });
    ladder.value[index] = int16_t(2 * f.values[position] * half_scale);
  }
}

template <int Bits>
INLINE __m512i squared_errors(__m512i y, const Ladder& ladder) {
  __m512i index = _mm512_setzero_si512();
#pragma GCC unroll 6
  for (int level = 0; level < Bits; level++) {
    const __m512i middle =
        _mm512_permutexvar_epi16(index, _mm512_load_si512(ladder.middle[level]));
    index = _mm512_mask_add_epi16(index, _mm512_cmpgt_epi16_mask(y, middle), index,
                                  _mm512_set1_epi16(int16_t(1 << level)));
  }
  const __m512i low = _mm512_load_si512(ladder.value);
  __m512i nearest;
  if constexpr (Bits == 6)
    nearest = _mm512_permutex2var_epi16(low, index, _mm512_load_si512(ladder.value + 32));
  else
    nearest = _mm512_permutexvar_epi16(index, low);
  const __m512i error = _mm512_sub_epi16(y, nearest);
  return _mm512_madd_epi16(error, error);
}

// Squared errors of y in the low half, of -y in the high half.
template <int B, int Bits>
INLINE __m512i both_errors(__m512i plus, __m512i minus, const Ladder& ladder) {
  if constexpr (B == 16) return squared_errors<Bits>(_mm512_inserti64x4(plus, _mm512_castsi512_si256(minus), 1), ladder);
  const __m512i p = squared_errors<Bits>(plus, ladder), m = squared_errors<Bits>(minus, ladder);
  return _mm512_add_epi32(_mm512_shuffle_i64x2(p, m, 0x44), _mm512_shuffle_i64x2(p, m, 0xEE));
}

// The step (times two, plus one for -y) with the least error, the first of equals.
template <int B, int Bits>
INLINE int least_error(const int16_t* y, const Ladder* const* ladders) {
  __m512i plus;
  if constexpr (B == 32) plus = _mm512_load_si512(y);
  else plus = _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(y)));
  const __m512i minus = _mm512_sub_epi16(_mm512_setzero_si512(), plus);
  __m512i s[kSteps];
#pragma GCC unroll 8
  for (int i = 0; i < kSteps; i++) s[i] = both_errors<B, Bits>(plus, minus, *ladders[i]);
  // Add up within the halves, eight registers at a time: the sums of four steps share a lane.
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    s[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                            _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)
    s[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(s[2 * i], s[2 * i + 1]),
                            _mm512_unpackhi_epi64(s[2 * i], s[2 * i + 1]));
  const __m512i sums = _mm512_add_epi32(_mm512_shuffle_i64x2(s[0], s[1], 0x88),
                                        _mm512_shuffle_i64x2(s[0], s[1], 0xDD));
  const __m512i by_step = _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15), sums);
  const __m512i least = _mm512_set1_epi32(_mm512_reduce_min_epi32(by_step));
  return __builtin_ctz(_mm512_cmpeq_epi32_mask(by_step, least));
}

#else

// A walk up the steps: the midpoints, and how far the value rises at each.
struct Ladder {
  int16_t middle[64], rise[64], lowest;
};

void fill(const Format& f, int half_scale, Ladder& ladder) {
  ladder.lowest = int16_t(2 * f.values[0] * half_scale);
  for (int k = 0; k + 1 < 1 << f.code_bits; k++) {
    ladder.middle[k] = int16_t((f.values[k] + f.values[k + 1]) * half_scale);
    ladder.rise[k] = int16_t(2 * (f.values[k + 1] - f.values[k]) * half_scale);
  }
}

struct Thresholds {
  float middle[64];
};

void fill(const Format& f, Thresholds& thresholds) {
  for (int k = 0; k + 1 < 1 << f.code_bits; k++) thresholds.middle[k] = f.thresholds[k];
}

template <int Bits>
INLINE Ints encode_ladder(const Thresholds& thresholds, Floats v) {
  Ints code{};
  for (int k = 0; k < (1 << Bits) - 1; k++) code -= v > thresholds.middle[k];
  return code;
}

template <int B, int Bits>
INLINE int32_t squared_error(const int16_t* y, int sign, const Ladder& ladder) {
  Ints sum{};
  for (int start = 0; start < B; start += kLanes) {
    Shorts lanes;
    std::memcpy(&lanes, y + start, sizeof lanes);
    lanes *= int16_t(sign);
    Shorts nearest = ladder.lowest + Shorts{};
    for (int k = 0; k < (1 << Bits) - 1; k++) nearest += (lanes > ladder.middle[k]) & ladder.rise[k];
    const Ints error = __builtin_convertvector(lanes - nearest, Ints);
    sum += error * error;
  }
  int32_t total = 0;
  for (int i = 0; i < kLanes; i++) total += sum[i];
  return total;
}

// The step (times two, plus one for -y) with the least error, the first of equals.
template <int B, int Bits>
INLINE int least_error(const int16_t* y, const Ladder* const* ladders) {
  int best = 0;
  int32_t least = std::numeric_limits<int32_t>::max();
  for (int i = 0; i < 2 * kSteps; i++) {
    const int32_t error = squared_error<B, Bits>(y, i & 1 ? -1 : 1, *ladders[i / 2]);
    best = error < least ? i : best;
    least = error < least ? error : least;
  }
  return best;
}

#endif

struct Search {
  Ladder ladders[24];
  Thresholds thresholds;
  uint8_t tried[kLargestS1E4M3 + 1][kSteps];  // by the scale that the search starts from
  const Ladder* ladder[kLargestS1E4M3 + 1][kSteps];
};

void fill(const Format& f, Search& search) {
  fill(f, search.thresholds);
  for (int row = 0; row < 24; row++) fill(f, (8 + row % 8) << (row / 8), search.ladders[row]);
  for (int start = 0; start <= kLargestS1E4M3; start++)
    for (int i = 0; i < kSteps; i++) {
      const int tried = clamp(start + f.steps[i], 0, kLargestS1E4M3);
      search.tried[start][i] = uint8_t(tried);
      search.ladder[start][i] = &search.ladders[tried - (start & ~7) + 8];
    }
}

// Search the scale of a block y, starting from the smallest that does not clip, and encode it.
template <int B, int Bits>
INLINE int quantize_searched(const Search& search, const float* y, int start, uint8_t* codes) {
  alignas(64) int16_t fixed[B];
  const float unit = power_of_two(20 - (start >> 3));
  for (int i = 0; i < B; i += kLanes) {
    const auto narrow = __builtin_convertvector(round_even(load(y + i) * unit), Shorts);
    std::memcpy(fixed + i, &narrow, sizeof narrow);
  }
  const int best = least_error<B, Bits>(fixed, search.ladder[start]);
  const int byte = search.tried[start][best / 2] | (best & 1) << 7;
  const float factor = 1.0f / s1e4m3(byte);
  for (int i = 0; i < B; i += kLanes)
    store(encode_ladder<Bits>(search.thresholds, load(y + i) * factor), codes + i);
  return byte;
}

template <int B>
INLINE void quantize_s1e4m3(const Format& f, const Search& search, const float* x, float whole,
                            uint8_t* codes, uint8_t* scale) {
  const int32_t amax = largest_bits<B>(x);
  if (amax >= kInfinity) {
    scale[0] = kNanScale;
    std::memset(codes, 0, B);
    return;
  }
  const float inverse = 1.0f / whole;  // a power of two: exact
  alignas(64) float y[B];
  for (int i = 0; i < B; i++) y[i] = x[i] * inverse;
  int byte = smallest_scale(f, bits_as<float>(amax) * inverse);
  if (!f.steps) encode_block<B>(f, y, 1.0f / s1e4m3(byte), codes);
  else if (f.code_bits == 4) byte = quantize_searched<B, 4>(search, y, byte, codes);
  else if (f.code_bits == 5) byte = quantize_searched<B, 5>(search, y, byte, codes);
  else byte = quantize_searched<B, 6>(search, y, byte, codes);
  scale[0] = uint8_t(byte);
}

// ---- Rows --------------------------------------------------------------------------------------

// Eight codes of `bits` bits, a byte each, become 8 * bits bits without gaps; and back.
inline uint64_t squeeze(uint64_t x, int bits) {
  x = (x & 0x00FF00FF00FF00FF) | ((x & 0xFF00FF00FF00FF00) >> (8 - bits));
  x = (x & 0x0000FFFF0000FFFF) | ((x & 0xFFFF0000FFFF0000) >> (16 - 2 * bits));
  return (x & 0xFFFFFFFF) | (x >> 32 << 4 * bits);
}

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
void quantize_block(const Format& f, const Search& search, const float* x, float whole,
                    uint8_t* codes, uint8_t* scale) {
  switch (f.scale) {
    case Scale::s1e4m3: return quantize_s1e4m3<B>(f, search, x, whole, codes, scale);
    case Scale::ue4m3: return quantize_ue4m3<B>(f, x, whole, codes, scale);
    case Scale::micro: return quantize_micro(f, x, codes, scale);
    default: return quantize_e8m0<B>(f, x, codes, scale);
  }
}

template <int B>
void quantize_rows(const Format& f, const Tensor& t, int64_t first, int64_t last) {
  const int64_t blocks = ceil_divide(t.cols, B), row_bytes = ceil_divide(t.cols * f.code_bits, 8);
  const int scale_bytes = f.scale == Scale::micro ? 2 : 1;
  Search& search = *static_cast<Search*>(std::aligned_alloc(alignof(Search), sizeof(Search)));
  if (f.steps) fill(f, search);
  uint8_t* codes = static_cast<uint8_t*>(std::calloc(size_t(blocks * B + 8), 1));
  for (int64_t row = first; row < last; row++) {
    const float* x = t.values + row * t.cols;
    uint8_t* scales = t.scales + row * blocks * scale_bytes;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t start = block * B;
      const float* source = x + start;
      float padded[B];
      if (start + B > t.cols) {  // a ragged last block is filled up with zeros
        for (int i = 0; i < B; i++) padded[i] = start + i < t.cols ? source[i] : 0.0f;
        source = padded;
      }
      quantize_block<B>(f, search, source, t.scale, codes + start, scales + block * scale_bytes);
    }
    if (t.cols % 8) std::memset(codes + t.cols, 0, size_t(8 - t.cols % 8));  // unused bits are 0
    pack_row(codes, t.cols, f.code_bits, t.codes + row * row_bytes);
  }
  std::free(codes);
  std::free(&search);
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
