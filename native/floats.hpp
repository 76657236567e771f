// Arithmetic on sixteen floats at a time that gives the same bits everywhere: every step is an IEEE
// operation in a fixed order, and sums over lanes are added as a fixed tree.
#pragma once

#include "lanes.hpp"
#include "tiles.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace strop {
namespace {

#if defined(__AVX512F__)
INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  return bits_as<Floats>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
}
#elif defined(__AVX2__)
INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  struct Halves { __m256 part[2]; };
  const Halves x = bits_as<Halves>(a), y = bits_as<Halves>(b), z = bits_as<Halves>(c);
  return bits_as<Floats>(Halves{_mm256_fmadd_ps(x.part[0], y.part[0], z.part[0]),
                                _mm256_fmadd_ps(x.part[1], y.part[1], z.part[1])});
}
#else
INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  for (int i = 0; i < kLanes; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
#endif

INLINE Floats broadcast(float x) { return Floats{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

INLINE float sum(Floats x) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}
INLINE float largest(Floats x) {
  float most = x[0];
  for (int i = 1; i < kLanes; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// exp(x) within two units of the last place; 0 below -87, exp(88) above 88, NaN of NaN. x = n ln 2 + r
// with |r| <= ln(2) / 2, and the Taylor series of exp(r).
INLINE Floats exponential(Floats x) {
  const Ints number = x == x;
  const Floats nan = x;
  const Ints tiny = x < -87.0f;
  x = x < 88.0f ? x : broadcast(88.0f);
  x = tiny ? Floats{} : x;
  const Ints n = round_even(x * 0x1.715476p+0f);
  const Floats whole = __builtin_convertvector(n, Floats);
  Floats r = multiply_add(whole, broadcast(-0x1.62e400p-1f), x);
  r = multiply_add(whole, broadcast(-0x1.7f7d1cp-20f), r);
  Floats y = broadcast(1.0f / 720);
  for (const float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    y = multiply_add(y, r, broadcast(term));
  y = bits_as<Floats>(bits_as<Ints>(y) + (n << 23));
  y = tiny ? Floats{} : y;
  return number ? y : nan;
}

// Quantize 32 numbers to integers and return their scale, largest magnitude / 127; NaN if one of
// them is not finite. `sums` gets the sums of the first 16 integers and of the others.
INLINE float quantize_32(const float* x, int8_t* codes, int32_t* sums) {
  using Bytes = int8_t __attribute__((vector_size(16)));
  const Floats v[2] = {load(x), load(x + kLanes)};
  const int32_t bits = largest_lane(larger(magnitude_bits(v[0]), magnitude_bits(v[1])));
  if (bits >= kInfinity) {
    std::memset(codes, 0, 2 * kLanes);
    sums[0] = sums[1] = 0;
    return __builtin_nanf("");
  }
  const float amax = bits_as<float>(bits);
  const float inverse = amax > 0x1p-120f ? 127.0f / amax : 0.0f;
  Bytes all[2];
  for (int half = 0; half < 2; half++) {
    all[half] = __builtin_convertvector(round_even(v[half] * inverse), Bytes);
    std::memcpy(codes + half * kLanes, &all[half], sizeof all[half]);
  }
#ifdef __AVX512VNNI__
  __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1),
                                      _mm256_set_m128i(bits_as<__m128i>(all[1]),
                                                       bits_as<__m128i>(all[0])));
  fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4E));
  fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0xB1));
  sums[0] = _mm256_cvtsi256_si32(fours);
  sums[1] = _mm256_extract_epi32(fours, 4);
#else
  for (int half = 0; half < 2; half++) {
    sums[half] = 0;
    for (int i = 0; i < kLanes; i++) sums[half] += all[half][i];
  }
#endif
  return amax / 127.0f;
}

// x / sqrt(mean(x^2) + epsilon) * weight.
void rms_norm(const float* x, const float* weight, int64_t size, float epsilon, float* y) {
  Floats squares{};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) squares = multiply_add(load(x + i), load(x + i), squares);
  if (i < size) {
    Floats rest{};
    std::memcpy(&rest, x + i, size_t(size - i) * sizeof(float));
    squares = multiply_add(rest, rest, squares);
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
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats g = load(gate + i);
    store(y + i, g / (1.0f + exponential(-g)) * load(up + i));
  }
}

}  // namespace
}  // namespace strop
