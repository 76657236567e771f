// The scale search (S1E4M3): which scale, of those tried, leaves the least squared error.
#pragma once

#include <limits>

#include "elements.hpp"

namespace strop {
namespace {

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

// The search compares errors in integers. Elements are rounded to multiples of the last mantissa bit
// of the scale that the search starts from; (8 + m) << (1 + d) is then twice a scale of mantissa m
// whose exponent is higher by d, and `inverse` turns elements into multiples of it. The error of
// such a multiple is looked up, squared, and weighted with the square of the scale.
constexpr int kGroup = 64;  // elements that are searched together: 4 blocks of 16 or 2 of 32

struct Search {
  alignas(64) uint8_t error[2][256];  // distance of a magnitude to the nearest value, by its sign
  alignas(64) int16_t inverse[32];    // by 8 * (1 + d) + m
  alignas(64) int32_t weight[32];
  alignas(64) uint8_t code[512];  // the nearest value of v, by floor(2 * v) + 256
};

inline int distance(const Format& f, float value) {
  float least = 255;
  for (int k = 0; k < 1 << f.plane_bits(); k++) {
    const float d = value > f.ladder[k] ? value - f.ladder[k] : f.ladder[k] - value;
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
  // Half-way between integers lie multiples of a half: between two of them the code is the same.
  for (int twice = -256; twice < 256; twice++) {
    int code = 0;  // a NaN fails the comparison
    for (int next = 1; next < 1 << f.code_bits; next++)
      if (f.values[code] + f.values[next] <= float(twice)) code = next;
    search.code[twice + 256] = uint8_t(code);
  }
}

// The scale that is a step away from the one where the search starts.
INLINE int tried_scale(const Format& f, int start, int step) {
  return clamp(start + f.steps[step], 0, kLargestS1E4M3);
}

#ifdef __AVX512VBMI__

// Encode 64 elements, each block by its factor.
template <int B>
INLINE void encode_group(const Search& search, const float* y, const float* factor,
                         uint8_t* codes) {
  __m256i twice[4];
  for (int lane = 0; lane < 4; lane++) {
    const __m512 scale = _mm512_set1_ps(2 * factor[lane * 16 / B]);
    const __m512 v = _mm512_mul_ps(_mm512_load_ps(y + 16 * lane), scale);
    twice[lane] = _mm512_cvtsepi32_epi16(
        _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
  }
  __m256i low[2];
  __mmask32 high[2];
  for (int half = 0; half < 2; half++) {
    __m512i index = _mm512_inserti64x4(_mm512_castsi256_si512(twice[2 * half]), twice[2 * half + 1], 1);
    index = _mm512_min_epi16(_mm512_set1_epi16(255), _mm512_max_epi16(_mm512_set1_epi16(-256), index));
    high[half] = _mm512_cmpge_epi16_mask(index, _mm512_setzero_si512());
    low[half] = _mm512_cvtepi16_epi8(index);
  }
  const __m512i index = _mm512_inserti64x4(_mm512_castsi256_si512(low[0]), low[1], 1);
  const __mmask64 upper = _mm512_movepi8_mask(index), positive = __mmask64(high[1]) << 32 | high[0];
  const uint8_t* table = search.code;
  const auto look_up = [&](int start) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table + start), index,
                                    _mm512_load_si512(table + start + 64));
  };
  const __m512i below = _mm512_mask_blend_epi8(upper, look_up(0), look_up(128));
  const __m512i above = _mm512_mask_blend_epi8(upper, look_up(256), look_up(384));
  _mm512_storeu_si512(codes, _mm512_mask_blend_epi8(positive, below, above));
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
  const __m512i top = _mm512_set1_epi8(char(f.ladder[(1 << f.plane_bits()) - 1]));
  const __m512i bottom = _mm512_set1_epi8(char(-f.ladder[0]));
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

// Encode 64 elements, each block by its factor.
template <int B>
INLINE void encode_group(const Search& search, const float* y, const float* factor,
                         uint8_t* codes) {
  for (int i = 0; i < kGroup; i++) {
    const float v = y[i] * (2 * factor[i / B]);
    const int whole = int(v), floor = whole - (float(whole) > v);
    codes[i] = search.code[clamp(floor, -256, 255) + 256];
  }
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
      for (int i = 0; i < B; i++) v[i] = clamp((fixed[i] * inverse + (1 << 14)) >> 15, 0, 255);
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

}  // namespace
}  // namespace strop
