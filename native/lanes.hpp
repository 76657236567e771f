// Vectors of sixteen numbers, which the compiler maps onto the registers there are (where those are
// smaller, through memory: see Strip in floats.hpp). Included by the kernels, once per instruction set; all in an anonymous namespace, so that the linker cannot mix
// code of two sets.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
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

#ifdef __AVX512F__
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
template <typename Vector>
INLINE auto round_even(Vector x) { return bits_as<decltype(x == x)>(x + 0x1.8p23f) - 0x4B400000; }

}  // namespace
}  // namespace strop
