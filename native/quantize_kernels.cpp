// Quantization and dequantization of rows. Compiled once per instruction set, into the namespace
// that STROP_ISA names; everything else stays in an anonymous namespace, so that the linker cannot
// mix code of two sets. Plain loops of constant length, for the compiler to vectorise; only the
// scale search is also written with AVX-512 intrinsics.

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

inline uint32_t bits_of(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline float float_of(uint32_t b) { float x; std::memcpy(&x, &b, 4); return x; }
inline float power_of_two(int exponent) {  // exponent in -149..127
  return exponent >= -126 ? float_of(uint32_t(exponent + 127) << 23)
                          : float_of(1u << (exponent + 149));
}
inline int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Round to the nearest integer, ties to even, for |x| < 2**22: adding 1.5 * 2**23 leaves no room
// for a fraction, and the integer stands in the low bits.
inline int32_t round_even(float x) { return int32_t(bits_of(x + 0x1.8p23f)) - 0x4B400000; }

// ---- Elements: B numbers times a factor become B codes -----------------------------------------

template <int B>
void encode_sign_magnitude(const Format& f, const float* x, const float* factor, uint8_t* codes) {
  const int smallest = f.smallest_exponent + 127, mantissa = f.mantissa_bits;
  const int sign_shift = 32 - f.code_bits;
  const uint32_t sign_bit = 1u << (f.code_bits - 1), limit = bits_of(f.largest);
  const bool truncate = f.truncate;
  for (int i = 0; i < B; i++) {
    const uint32_t bits = bits_of(x[i] * factor[i]);
    uint32_t magnitude = bits & 0x7FFFFFFF;
    magnitude = magnitude < limit ? magnitude : limit;
    const int field = int(magnitude >> 23);
    const int exponent = field > smallest ? field : smallest;
    // The mantissa, hidden bit included, as an integer: subnormals just stay below the hidden bit.
    const float scaled = float_of(magnitude) * float_of(uint32_t(254 - exponent + mantissa) << 23);
    const int integer = truncate ? int(scaled) : round_even(scaled);
    const uint32_t code = uint32_t(((exponent - smallest) << mantissa) + integer);
    codes[i] = uint8_t(code | ((bits >> sign_shift) & sign_bit));
  }
}

template <int B>
void encode_integer(const Format& f, const float* x, const float* factor, uint8_t* codes) {
  const bool twos = f.element == Element::twos_complement;
  const float unit = twos ? power_of_two(-f.smallest_exponent) : 1.0f;
  const float low = twos ? -f.largest * unit : f.values[0] == f.values[0] ? f.values[0] : -f.largest;
  const float high = twos ? f.largest * unit : f.values[(1 << f.code_bits) - 1];
  const int offset = twos ? 0 : 1 << (f.code_bits - 1);
  const int mask = (1 << f.code_bits) - 1;
  for (int i = 0; i < B; i++) {
    float v = x[i] * factor[i] * unit;
    v = v > low ? v : low;
    v = v < high ? v : high;
    codes[i] = uint8_t((round_even(v) + offset) & mask);
  }
}

template <int B>
void encode_ladder(const Format& f, const float* x, const float* factor, uint8_t* codes) {
  const int count = (1 << f.code_bits) - 1;
  float v[B];
  int32_t code[B] = {};
  for (int i = 0; i < B; i++) v[i] = x[i] * factor[i];
  for (int k = 0; k < count; k++) {
    const float threshold = f.thresholds[k];
    for (int i = 0; i < B; i++) code[i] += v[i] > threshold;
  }
  for (int i = 0; i < B; i++) codes[i] = uint8_t(code[i]);
}

template <int B>
void encode(const Format& f, const float* x, const float* factor, uint8_t* codes) {
  switch (f.element) {
    case Element::sign_magnitude: return encode_sign_magnitude<B>(f, x, factor, codes);
    case Element::ladder: return encode_ladder<B>(f, x, factor, codes);
    default: return encode_integer<B>(f, x, factor, codes);
  }
}

// ---- Power-of-two scales (E8M0) ----------------------------------------------------------------

// The largest magnitude as bits: NaN, if there is one, is above infinity, 0x7F800000.
template <int B>
uint32_t largest_bits(const float* x) {
  uint32_t largest = 0;
  for (int i = 0; i < B; i++) {
    const uint32_t magnitude = bits_of(x[i]) & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

int power_of_two_scale(const Format& f, uint32_t amax) {
  if (amax > 0x7F800000) return kNanScale;
  if (f.rule == Rule::rceil) {
    const uint32_t descale = bits_of(float_of(amax) / f.largest);
    const uint32_t field = descale >> 23, fraction = descale & 0x7FFFFF;
    const int byte = int(field) + (field == 0 ? fraction > 0x400000 : fraction > 0);
    return byte < 254 ? byte : 254;
  }
  if (f.rule == Rule::even) amax += 1u << (23 - f.mantissa_bits - 1);
  const int carry = f.rule == Rule::ceil && (amax & 0x7FFFFF) > 0;
  return clamp(int(amax >> 23) + carry - f.largest_exponent, 0, kNanScale);
}

// See `multiplier` in the reference for byte 0.
float multiplier(const Format& f, int byte) {
  if (byte == 0 && f.largest_exponent > 0) byte = f.rule == Rule::rceil ? 127 : 1;
  return power_of_two(127 - (byte < 254 ? byte : 254));
}

template <int B>
void quantize_power_of_two(const Format& f, const float* x, uint8_t* codes, uint8_t* scale) {
  const uint32_t amax = largest_bits<B>(x);
  const int byte = power_of_two_scale(f, amax);
  scale[0] = uint8_t(byte);
  float factor[B];
  const float whole = multiplier(f, byte);
  for (int i = 0; i < B; i++) factor[i] = whole;
  if (f.scale == Scale::micro) {
    int micro = 0;
    for (int i = 0; i < B; i += 2) {
      const uint32_t pair = largest_bits<2>(x + i);
      if (pair >> 23 < amax >> 23) {
        micro |= 1 << (i / 2);
        factor[i] = factor[i + 1] = 2 * whole;
      }
    }
    scale[1] = uint8_t(micro);
  }
  encode<B>(f, x, factor, codes);
  if (byte == kNanScale) std::memset(codes, 0, B);
}

// ---- NVFP4 -------------------------------------------------------------------------------------

template <int B>
void quantize_ue4m3(const Format& f, const float* x, float whole, uint8_t* codes, uint8_t* scale) {
  const uint32_t amax = largest_bits<B>(x);
  const bool finite = amax < 0x7F800000;
  float scaled = finite ? float_of(amax) / 6.0f / whole : 1.0f;
  scaled = scaled > 0x1p-6f ? scaled : 0x1p-6f;
  scaled = scaled < 448.0f ? scaled : 448.0f;
  const uint32_t bits = bits_of(scaled);
  const uint32_t rounded = (bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20;
  scale[0] = finite ? uint8_t(rounded - ((127 - 7) << 3)) : kNanScale;
  float factor[B];
  for (int i = 0; i < B; i++) factor[i] = (1.0f / whole) / float_of(rounded << 20);
  encode<B>(f, x, factor, codes);
  if (!finite) std::memset(codes, 0, B);
}

// ---- Scale search (S1E4M3) ---------------------------------------------------------------------

inline float s1e4m3(int byte) {
  const float magnitude = float_of(uint32_t(((127 - 15) << 3) + (byte & 127)) << 20);
  return byte & 128 ? -magnitude : magnitude;
}

// The smallest magnitude 0..126 with largest * scale >= amax, or 126. The exponent and the first
// three mantissa bits of amax / largest give it, but for the rounding of that division.
int smallest_scale(const Format& f, float amax) {
  int guess = int(bits_of(amax / f.largest) >> 20) - ((127 - 15) << 3) - 1;
  guess = clamp(guess, 0, kLargestS1E4M3);
  while (guess < kLargestS1E4M3 && s1e4m3(guess) * f.largest < amax) guess++;
  return guess;
}

// The ladder times (8 + m), for each of the eight scale mantissas m; a shift gives the exponent.
struct Ladders {
  int count;
  int16_t middle[8][64];  // sums of neighbouring values: twice the thresholds
  int16_t value[8][64];   // twice the values
};

void fill(const Format& f, Ladders& ladders) {
  ladders.count = 1 << f.code_bits;
  for (int m = 0; m < 8; m++)
    for (int k = 0; k < 64; k++) {
      const bool inside = k < ladders.count, last = k + 1 >= ladders.count;
      ladders.value[m][k] = inside ? int16_t(2 * f.values[k] * (8 + m)) : 0;
      ladders.middle[m][k] = last ? std::numeric_limits<int16_t>::max() / 4
                                  : int16_t((f.values[k] + f.values[k + 1]) * (8 + m));
    }
}

// Squared errors of y and of -y, in fixed point, against a ladder shifted left.
struct Errors { int64_t plus, minus; };

#ifdef __AVX512BW__

template <int N>
__m512i squared_errors(__m512i y, const int16_t* middle, const int16_t* value, __m128i shift) {
  const __m512i middles = _mm512_sll_epi16(_mm512_loadu_si512(middle), shift);
  const __m512i values = _mm512_sll_epi16(_mm512_loadu_si512(value), shift);
  __m512i high_middles, high_values;
  if constexpr (N == 64) {
    high_middles = _mm512_sll_epi16(_mm512_loadu_si512(middle + 32), shift);
    high_values = _mm512_sll_epi16(_mm512_loadu_si512(value + 32), shift);
  }
  __m512i index = _mm512_setzero_si512();
  for (int half = N / 2; half > 0; half /= 2) {
    const __m512i probe = _mm512_add_epi16(index, _mm512_set1_epi16(int16_t(half - 1)));
    __m512i middle_at;
    if constexpr (N == 64) middle_at = _mm512_permutex2var_epi16(middles, probe, high_middles);
    else middle_at = _mm512_permutexvar_epi16(probe, middles);
    const __mmask32 above = _mm512_cmpgt_epi16_mask(y, middle_at);
    index = _mm512_mask_add_epi16(index, above, index, _mm512_set1_epi16(int16_t(half)));
  }
  __m512i nearest;
  if constexpr (N == 64) nearest = _mm512_permutex2var_epi16(values, index, high_values);
  else nearest = _mm512_permutexvar_epi16(index, values);
  const __m512i error = _mm512_sub_epi16(y, nearest);
  return _mm512_madd_epi16(error, error);
}

template <int B, int N>
Errors errors_of(const int16_t* y, const int16_t* middle, const int16_t* value, int shift) {
  const __m128i count = _mm_cvtsi32_si128(shift);
  if constexpr (B == 32) {
    const __m512i plus = _mm512_loadu_si512(y);
    const __m512i minus = _mm512_sub_epi16(_mm512_setzero_si512(), plus);
    return {_mm512_reduce_add_epi32(squared_errors<N>(plus, middle, value, count)),
            _mm512_reduce_add_epi32(squared_errors<N>(minus, middle, value, count))};
  } else {  // both signs in one register
    const __m256i plus = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y));
    const __m256i minus = _mm256_sub_epi16(_mm256_setzero_si256(), plus);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(plus), minus, 1);
    const __m512i squares = squared_errors<N>(both, middle, value, count);
    return {_mm512_mask_reduce_add_epi32(0x00FF, squares),
            _mm512_mask_reduce_add_epi32(0xFF00, squares)};
  }
}

#else

template <int B, int N>
int64_t squared_error(const int16_t* y, const int16_t* middle, const int16_t* value, int shift) {
  int16_t nearest[B];
  for (int i = 0; i < B; i++) nearest[i] = int16_t(value[0] << shift);
  for (int k = 0; k + 1 < N; k++) {
    const int16_t threshold = int16_t(middle[k] << shift);
    const int16_t rise = int16_t((value[k + 1] - value[k]) << shift);
    for (int i = 0; i < B; i++) nearest[i] += y[i] > threshold ? rise : int16_t(0);
  }
  int32_t sum = 0;
  for (int i = 0; i < B; i++) {
    const int32_t error = int32_t(y[i]) - nearest[i];
    sum += error * error;
  }
  return sum;
}

template <int B, int N>
Errors errors_of(const int16_t* y, const int16_t* middle, const int16_t* value, int shift) {
  int16_t negative[B];
  for (int i = 0; i < B; i++) negative[i] = int16_t(-y[i]);
  return {squared_error<B, N>(y, middle, value, shift),
          squared_error<B, N>(negative, middle, value, shift)};
}

#endif

template <int B, int N>
int search_scale(const Format& f, const Ladders& ladders, const float* y, int start) {
  int16_t fixed[B];
  const int exponent = start >> 3;
  const float unit = power_of_two(20 - exponent);
  for (int i = 0; i < B; i++) fixed[i] = int16_t(round_even(y[i] * unit));
  int64_t least = std::numeric_limits<int64_t>::max();
  int best = start;
  for (int s = 0; s < f.step_count; s++) {
    const int tried = clamp(start + f.steps[s], 0, kLargestS1E4M3);
    const int shift = 1 + (tried >> 3) - exponent, m = tried & 7;
    const Errors e = errors_of<B, N>(fixed, ladders.middle[m], ladders.value[m], shift);
    if (e.plus < least) { least = e.plus; best = tried; }
    if (e.minus < least) { least = e.minus; best = tried | 128; }
  }
  return best;
}

template <int B>
void quantize_s1e4m3(const Format& f, const Ladders& ladders, const float* x, float whole,
                     uint8_t* codes, uint8_t* scale) {
  const uint32_t amax = largest_bits<B>(x);
  if (amax >= 0x7F800000) {
    scale[0] = kNanScale;
    std::memset(codes, 0, B);
    return;
  }
  const float inverse = 1.0f / whole;  // a power of two: exact
  float y[B], factor[B];
  for (int i = 0; i < B; i++) y[i] = x[i] * inverse;
  int byte = smallest_scale(f, float_of(amax) * inverse);
  if (f.step_count > 1) switch (f.code_bits) {
    case 4: byte = search_scale<B, 16>(f, ladders, y, byte); break;
    case 5: byte = search_scale<B, 32>(f, ladders, y, byte); break;
    default: byte = search_scale<B, 64>(f, ladders, y, byte); break;
  }
  scale[0] = uint8_t(byte);
  const float reciprocal = 1.0f / s1e4m3(byte);
  for (int i = 0; i < B; i++) factor[i] = reciprocal;
  encode<B>(f, y, factor, codes);
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

void pack_row(const uint8_t* codes, int64_t cols, int bits, uint8_t* packed) {
  const int64_t bytes = ceil_divide(cols * bits, 8);
  for (int64_t i = 0, at = 0; at < bytes; i += 8, at += bits) {
    uint64_t eight;
    std::memcpy(&eight, codes + i, 8);
    eight = squeeze(eight, bits);
    std::memcpy(packed + at, &eight, size_t(bytes - at < bits ? bytes - at : bits));
  }
}

void unpack_row(const uint8_t* packed, int64_t cols, int bits, uint8_t* codes) {
  const int64_t bytes = ceil_divide(cols * bits, 8);
  for (int64_t i = 0, at = 0; at < bytes; i += 8, at += bits) {
    uint64_t eight = 0;
    std::memcpy(&eight, packed + at, size_t(bytes - at < bits ? bytes - at : bits));
    eight = spread(eight, bits);
    std::memcpy(codes + i, &eight, 8);
  }
}

template <int B>
void quantize_block(const Format& f, const Ladders& ladders, const float* x, float whole,
                    uint8_t* codes, uint8_t* scale) {
  switch (f.scale) {
    case Scale::s1e4m3: return quantize_s1e4m3<B>(f, ladders, x, whole, codes, scale);
    case Scale::ue4m3: return quantize_ue4m3<B>(f, x, whole, codes, scale);
    default: return quantize_power_of_two<B>(f, x, codes, scale);
  }
}

template <int B>
void quantize_rows(const Format& f, const Tensor& t, int64_t first, int64_t last) {
  const int64_t blocks = ceil_divide(t.cols, B), row_bytes = ceil_divide(t.cols * f.code_bits, 8);
  const int scale_bytes = f.scale == Scale::micro ? 2 : 1;
  Ladders ladders;
  if (f.step_count > 1) fill(f, ladders);
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
      quantize_block<B>(f, ladders, source, t.scale, codes + start, scales + block * scale_bytes);
    }
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

}  // namespace

namespace STROP_ISA { extern const Kernels kernels = {quantize, dequantize}; }

}  // namespace strop
