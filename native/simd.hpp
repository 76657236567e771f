// The dozen operations of which the matrix product is made, once for each instruction set.
//
// A Line is kWidth * 4 bytes of a tile; four bytes of it, a lane, belong to one row. `lookup` turns
// the codes of column group G of a tile into integers + 128, without sign as the processor's dot
// product wants them; what that adds to the sums is taken off beforehand, by `start`. `factors` is what
// `dot` multiplies by: the integers, in the form that the processor has instructions for.
#pragma once

#include "lanes.hpp"
#include "tiles.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace strop {
namespace {

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

constexpr int kWidth = 16;
using Sums = __m512i;
using Wide = __m512;
using Line = __m512i;
using Table = __m512i;

INLINE Line line(const uint8_t* at) { return _mm512_load_si512(at); }
INLINE Table table(const uint8_t* entries) { return _mm512_loadu_si512(entries); }

// The shifts move bits across bytes too, but only to places that the lookup does not read, or that
// the table repeats.
template <int Bits, int G>
INLINE Line lookup(const uint8_t* tile, Table table) {
  if constexpr (Bits == 8) return line(tile + G * kLine);
  Line index = line(tile + G / 2 * kLine);
  if constexpr (G % 2) index = _mm512_srli_epi16(index, 4);
  if constexpr (Bits > 4) {
    const Line low = _mm512_set1_epi8(15);
    constexpr int bit = Bits == 5 ? G : 2 * (G % 4);
    Line upper = line(tile + (Bits == 5 ? 4 : 4 + G / 4) * kLine);
    if constexpr (bit < 4) upper = _mm512_slli_epi16(upper, 4 - bit);
    else upper = _mm512_srli_epi16(upper, bit - 4);
    index = _mm512_ternarylogic_epi32(low, index, upper, 0xCA);
  }
  return _mm512_permutexvar_epi8(index, table);
}
using Factors = Line;
INLINE Factors factors(Line integers) { return integers; }
INLINE Sums start(int32_t offset) { return _mm512_set1_epi32(offset); }
// In assembly, because GCC would load the four numbers by an instruction of its own.
INLINE Sums dot(Sums sums, Line integers, const int8_t* x) {
  using Four = const int8_t[4];
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(sums)
      : "v"(integers), "m"(*reinterpret_cast<Four*>(x)));
  return sums;
}
INLINE Wide to_float(Sums sums) { return _mm512_cvtepi32_ps(sums); }
INLINE Wide fused(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Wide times(Wide a, float b) { return _mm512_mul_ps(a, _mm512_set1_ps(b)); }
INLINE Wide zero() { return _mm512_setzero_ps(); }
INLINE Wide wide(const float* at) { return _mm512_loadu_ps(at); }
INLINE void put(float* at, Wide x) { _mm512_storeu_ps(at, x); }
INLINE Wide as_float(Sums bits) { return _mm512_castsi512_ps(bits); }
INLINE Wide scale_e8m0(const uint8_t* bytes) {
  const Sums wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  return as_float(_mm512_max_epu32(_mm512_slli_epi32(wide, 23), _mm512_set1_epi32(0x400000)));
}
INLINE Wide scale_s1e4m3(const uint8_t* bytes) {
  const Sums wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  const Sums bits = _mm512_and_epi32(_mm512_slli_epi32(wide, 20), _mm512_set1_epi32(int(0x87F00000)));
  return as_float(_mm512_add_epi32(bits, _mm512_set1_epi32(112 << 23)));
}

#elif defined(__AVX2__)

constexpr int kWidth = 8;
using Sums = __m256i;
using Wide = __m256;
using Line = __m256i;
struct Table { Line part[4]; };

INLINE Line line(const uint8_t* at) { return _mm256_load_si256(reinterpret_cast<const Line*>(at)); }
INLINE Table table(const uint8_t* entries) {
  Table all;
  for (int i = 0; i < 4; i++)
    all.part[i] = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + 16 * i)));
  return all;
}

template <int Bits, int G>
INLINE Line lookup(const uint8_t* tile, const Table& table) {
  if constexpr (Bits == 8) return line(tile + G * kLine);
  Line index = line(tile + G / 2 * kLine);
  if constexpr (G % 2) index = _mm256_srli_epi16(index, 4);
  index = _mm256_and_si256(index, _mm256_set1_epi8(15));
  if constexpr (Bits == 4) return _mm256_shuffle_epi8(table.part[0], index);
  const auto choose = [](Line no, Line yes, Line highest_bits) {
    return _mm256_blendv_epi8(no, yes, highest_bits);
  };
  const Line upper = line(tile + (Bits == 5 ? 4 : 4 + G / 4) * kLine);
  constexpr int bit = Bits == 5 ? G : 2 * (G % 4);
  const Line first = choose(_mm256_shuffle_epi8(table.part[0], index),
                            _mm256_shuffle_epi8(table.part[1], index), _mm256_slli_epi16(upper, 7 - bit));
  if constexpr (Bits == 5) return first;
  const Line second = choose(_mm256_shuffle_epi8(table.part[2], index),
                             _mm256_shuffle_epi8(table.part[3], index), _mm256_slli_epi16(upper, 7 - bit));
  return choose(first, second, _mm256_slli_epi16(upper, 6 - bit));
}
#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
using Factors = Line;
INLINE Factors factors(Line integers) { return integers; }
INLINE Sums start(int32_t offset) { return _mm256_set1_epi32(offset); }
INLINE Sums dot(Sums sums, Line integers, const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_dpbusd_epi32(sums, integers, _mm256_set1_epi32(four));
}
#else
// Unsigned times signed, so the weights' signs go to the activations. Products of pairs are added in
// 16 bits, which |integer| * x never leaves: 2 * 128 * 127 < 2**15.
struct Factors { Line integers, magnitudes; };
INLINE Factors factors(Line integers) {
  const Line without_128 = _mm256_xor_si256(integers, _mm256_set1_epi8(-128));
  return {without_128, _mm256_abs_epi8(without_128)};
}
INLINE Sums start(int32_t) { return _mm256_setzero_si256(); }
// In assembly, because GCC would add the products of a tile as a tree, and keep them in memory till then.
INLINE Sums dot(Sums sums, const Factors& w, const int8_t* x) {
  using Four = const int8_t[4];
  Line products;
  asm("vpbroadcastd %2, %1\n\tvpsignb %3, %1, %1\n\tvpmaddubsw %1, %4, %1\n\t"
      "vpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sums), "=&x"(products)
      : "m"(*reinterpret_cast<Four*>(x)), "x"(w.integers), "x"(w.magnitudes),
        "x"(_mm256_set1_epi16(1)));
  return sums;
}
#endif
INLINE Wide to_float(Sums sums) { return _mm256_cvtepi32_ps(sums); }
INLINE Wide fused(Wide a, Wide b, Wide c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Wide times(Wide a, float b) { return _mm256_mul_ps(a, _mm256_set1_ps(b)); }
INLINE Wide zero() { return _mm256_setzero_ps(); }
INLINE Wide wide(const float* at) { return _mm256_loadu_ps(at); }
INLINE void put(float* at, Wide x) { _mm256_storeu_ps(at, x); }
INLINE Wide as_float(Sums bits) { return _mm256_castsi256_ps(bits); }
INLINE Wide scale_e8m0(const uint8_t* bytes) {
  const Sums wide = _mm256_cvtepu8_epi32(_mm_loadu_si64(bytes));
  return as_float(_mm256_max_epu32(_mm256_slli_epi32(wide, 23), _mm256_set1_epi32(0x400000)));
}
INLINE Wide scale_s1e4m3(const uint8_t* bytes) {
  const Sums wide = _mm256_cvtepi8_epi32(_mm_loadu_si64(bytes));
  const Sums bits = _mm256_and_si256(_mm256_slli_epi32(wide, 20), _mm256_set1_epi32(int(0x87F00000)));
  return as_float(_mm256_add_epi32(bits, _mm256_set1_epi32(112 << 23)));
}

#else  // plain C++, the text to read

constexpr int kWidth = 16;
struct Sums { int32_t lane[kWidth]; };
struct Wide { float lane[kWidth]; };
struct Line { uint8_t byte[kLine]; };
using Table = const uint8_t*;

INLINE Table table(const uint8_t* entries) { return entries; }

template <int Bits, int G>
INLINE Line lookup(const uint8_t* tile, Table table) {
  Line integers;
  for (int i = 0; i < kLine; i++) {
    if (Bits == 8) {
      integers.byte[i] = tile[G * kLine + i];
      continue;
    }
    int code = tile[G / 2 * kLine + i] >> 4 * (G % 2) & 15;
    if (Bits == 5) code |= (tile[4 * kLine + i] >> G & 1) << 4;
    if (Bits == 6) code |= (tile[(4 + G / 4) * kLine + i] >> 2 * (G % 4) & 3) << 4;
    integers.byte[i] = table[code];
  }
  return integers;
}
using Factors = Line;
INLINE const Factors& factors(const Line& integers) { return integers; }
INLINE Sums start(int32_t offset) {
  Sums sums;
  for (int32_t& lane : sums.lane) lane = offset;
  return sums;
}
INLINE Sums dot(Sums sums, const Line& integers, const int8_t* x) {
  for (int i = 0; i < kLine; i++) sums.lane[i / 4] += integers.byte[i] * x[i % 4];
  return sums;
}
INLINE Wide to_float(const Sums& sums) {
  Wide y;
  for (int i = 0; i < kWidth; i++) y.lane[i] = float(sums.lane[i]);
  return y;
}
INLINE Wide fused(const Wide& a, const Wide& b, const Wide& c) {
  Wide y;
  for (int i = 0; i < kWidth; i++) y.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return y;
}
INLINE Wide times(const Wide& a, float b) {
  Wide y;
  for (int i = 0; i < kWidth; i++) y.lane[i] = a.lane[i] * b;
  return y;
}
INLINE Wide zero() { return {}; }
INLINE Wide wide(const float* at) { return bits_as<Wide>(load(at)); }
INLINE void put(float* at, const Wide& x) { std::memcpy(at, &x, sizeof x); }
INLINE Wide scale_e8m0(const uint8_t* bytes) {
  Wide y;
  for (int i = 0; i < kWidth; i++) y.lane[i] = power_of_two(bytes[i] - 127);
  return y;
}
INLINE Wide scale_s1e4m3(const uint8_t* bytes) {
  Wide y;
  for (int i = 0; i < kWidth; i++) {
    const uint32_t magnitude = uint32_t((112 << 3) + (bytes[i] & 127)) << 20;
    y.lane[i] = bits_as<float>(magnitude | uint32_t(bytes[i] & 128) << 24);
  }
  return y;
}

#endif

constexpr int kParts = kPanel / kWidth;  // registers that a line of a tile takes

INLINE Wide scales(const Tiles& w, const uint8_t* bytes) {
  if (w.scale == Scale::s1e4m3) return scale_s1e4m3(bytes);
  if (w.scale == Scale::e8m0) return scale_e8m0(bytes);
  float values[kWidth];
  for (int i = 0; i < kWidth; i++) values[i] = w.ue4m3[bytes[i]];
  return wide(values);
}

}  // namespace
}  // namespace strop
