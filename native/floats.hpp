// Arithmetic on sixteen floats at a time that gives the same bits everywhere: every step is an IEEE
// operation in a fixed order, and sums over lanes are added as a fixed tree.
#pragma once

#include "lanes.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace strop {
namespace {

// As many floats as a register holds, of the sixteen that are worked on side by side. (GCC would keep
// vectors that are wider than a register in memory.)
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kStrip = 8;
#else
constexpr int kStrip = kLanes;
#endif
constexpr int kStrips = kLanes / kStrip;

using Strip = float __attribute__((vector_size(4 * kStrip)));
using StripInts = int32_t __attribute__((vector_size(4 * kStrip)));

#if defined(__AVX512F__)
INLINE Strip broadcast(float x) { return bits_as<Strip>(_mm512_set1_ps(x)); }
INLINE Strip multiply_add(Strip a, Strip b, Strip c) {
  return bits_as<Strip>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
}
#elif defined(__AVX2__)
INLINE Strip broadcast(float x) { return _mm256_set1_ps(x); }
INLINE Strip multiply_add(Strip a, Strip b, Strip c) { return _mm256_fmadd_ps(a, b, c); }
#else
INLINE Strip broadcast(float x) { return Strip{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE Strip multiply_add(Strip a, Strip b, Strip c) {
  for (int i = 0; i < kStrip; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
#endif

INLINE Strip strip(const float* at) { Strip x; std::memcpy(&x, at, sizeof x); return x; }
INLINE void store(float* to, Strip x) { std::memcpy(to, &x, sizeof x); }
INLINE Strip larger(Strip a, Strip b) { return a > b ? a : b; }

INLINE float sum(const Strip (&strips)[kStrips]) {
  float x[kLanes];
  std::memcpy(x, strips, sizeof x);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}
INLINE float largest(Strip x) {
  float most = x[0];
  for (int i = 1; i < kStrip; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// exp(x) within two units of the last place; 0 below -87, exp(88) above 88, NaN of NaN. x = n ln 2 + r
// with |r| <= ln(2) / 2, and the Taylor series of exp(r).
INLINE Strip exponential(Strip x) {
  const StripInts number = x == x;
  const Strip nan = x;
  const StripInts tiny = x < -87.0f;
  x = x < 88.0f ? x : broadcast(88.0f);
  x = tiny ? Strip{} : x;
  const StripInts n = round_even(x * 0x1.715476p+0f);
  const Strip whole = __builtin_convertvector(n, Strip);
  Strip r = multiply_add(whole, broadcast(-0x1.62e400p-1f), x);
  r = multiply_add(whole, broadcast(-0x1.7f7d1cp-20f), r);
  Strip y = broadcast(1.0f / 720);
  for (const float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    y = multiply_add(y, r, broadcast(term));
  y = bits_as<Strip>(bits_as<StripInts>(y) + (n << 23));
  y = tiny ? Strip{} : y;
  return number ? y : nan;
}

// ---- Thirty-two numbers become integers of eight bits ------------------------------------------

using Thirty2 = StripInts[2 * kStrips];

#if defined(__AVX2__)
#if defined(__AVX512F__)
INLINE int32_t largest_of(StripInts v) { return largest_lane(v); }
INLINE __m256i bytes(const Thirty2& v) {
  return _mm256_set_m128i(_mm512_cvtepi32_epi8(bits_as<__m512i>(v[1])),
                          _mm512_cvtepi32_epi8(bits_as<__m512i>(v[0])));
}
#else
INLINE int32_t largest_of(StripInts v) {
  const __m256i all = bits_as<__m256i>(v);
  __m128i most = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32(most, 0xB1)));
}
INLINE __m256i bytes(const Thirty2& v) {
  const auto pair = [&](int i) {
    return _mm256_packs_epi32(bits_as<__m256i>(v[i]), bits_as<__m256i>(v[i + 1]));
  };
  const __m256i fours = _mm256_packs_epi16(pair(0), pair(2));  // 0 8 16 24 4 12 20 28
  return _mm256_permutevar8x32_epi32(fours, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#endif
// Writes the integers, and sums of the first 16 and of the others.
INLINE void put_bytes(const Thirty2& v, int8_t* codes, int32_t* sums) {
  const __m256i all = bytes(v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), all);
  __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), all), _mm256_set1_epi16(1));
  fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4E));
  fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0xB1));
  sums[0] = _mm256_cvtsi256_si32(fours);
  sums[1] = _mm256_extract_epi32(fours, 4);
}
#else
INLINE int32_t largest_of(StripInts v) { return largest_lane(v); }
INLINE void put_bytes(const Thirty2& v, int8_t* codes, int32_t* sums) {
  for (int half = 0; half < 2; half++) {
    sums[half] = 0;
    for (int i = 0; i < kLanes; i++) {
      codes[half * kLanes + i] = int8_t(v[half][i]);
      sums[half] += v[half][i];
    }
  }
}
#endif

// Quantize 32 numbers to integers and return their scale, largest magnitude / 127; NaN if one of
// them is not finite. `sums` gets the sums of the first 16 integers and of the others.
INLINE float quantize_32(const float* x, int8_t* codes, int32_t* sums) {
  Strip v[2 * kStrips];
  StripInts most{};
  for (int i = 0; i < 2 * kStrips; i++) {
    v[i] = strip(x + i * kStrip);
    const StripInts magnitude = bits_as<StripInts>(v[i]) & 0x7FFFFFFF;
    most = most > magnitude ? most : magnitude;
  }
  const int32_t bits = largest_of(most);
  if (bits >= kInfinity) {
    std::memset(codes, 0, 2 * kLanes);
    sums[0] = sums[1] = 0;
    return __builtin_nanf("");
  }
  const float amax = bits_as<float>(bits);
  const float inverse = amax > 0x1p-120f ? 127.0f / amax : 0.0f;
  Thirty2 integers;
  for (int i = 0; i < 2 * kStrips; i++) integers[i] = round_even(v[i] * inverse);
  put_bytes(integers, codes, sums);
  return amax / 127.0f;
}

// x / sqrt(mean(x^2) + epsilon) * weight.
void rms_norm(const float* x, const float* weight, int64_t size, float epsilon, float* y) {
  Strip squares[kStrips] = {};
  const auto add = [&](const float* at) __attribute__((always_inline)) {
    for (int s = 0; s < kStrips; s++)
      squares[s] = multiply_add(strip(at + s * kStrip), strip(at + s * kStrip), squares[s]);
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) add(x + i);
  if (i < size) {
    float rest[kLanes] = {};
    std::memcpy(rest, x + i, size_t(size - i) * sizeof(float));
    add(rest);
  }
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / float(size) + epsilon);
  for (i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
}

void add(float* x, const float* y, int64_t size) {
  for (int64_t i = 0; i < size; i++) x[i] += y[i];
}

// Rotates the pairs (i, i + pairs) of a head.
void rotate(float* x, const float* cosines, const float* sines, int64_t pairs) {
  for (int64_t i = 0; i < pairs; i++) {
    const float a = x[i], b = x[i + pairs];
    x[i] = a * cosines[i] - b * sines[i];
    x[i + pairs] = b * cosines[i] + a * sines[i];
  }
}

// silu(gate) * up, for sizes up to a multiple of 16.
void gate(const float* gate, const float* up, int64_t size, float* y) {
  for (int64_t i = 0; i < size; i += kStrip) {
    const Strip g = strip(gate + i);
    store(y + i, g / (1.0f + exponential(-g)) * strip(up + i));
  }
}

}  // namespace
}  // namespace strop
