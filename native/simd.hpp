// The dozen operations of which the matrix product is made, once for each instruction set.
//
// A line of a tile has sixteen lanes of four bytes, each of which belongs to one row. `lookup` turns the
// codes of column group G of a tile into integers + 128, without sign as the processor's dot product
// wants them; what that adds to the sums is taken off beforehand, by `start`. With AVX2
// alone, which has none, the integers have their sign and nothing is taken off. `factors` is what `dot` multiplies
// by. `widen` stores that in a tile of kWidened lines, for whose "Bits" it takes no lookup any more.
#pragma once

#include "lanes.hpp"
#include "tiles.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace strop {
namespace {

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

constexpr int kWidened = 8;
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
template <int Bits, int G>
INLINE Factors factors(const uint8_t* tile, Table table) { return lookup<Bits, G>(tile, table); }
template <int G>
INLINE void widen(Factors integers, uint8_t* tile) { _mm512_store_si512(tile + G * kLine, integers); }
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

// Sixteen lanes are two registers, which share what is loaded of the activations. (Not arrays, which GCC
// would copy through memory.)
using Half = __m256i;
struct Line { Half low, high; };
struct Sums { Half low, high; };
struct Wide { __m256 low, high; };
struct Table { Half part[4]; };

INLINE Half half_line(const uint8_t* at) { return _mm256_load_si256(reinterpret_cast<const Half*>(at)); }
INLINE Line line(const uint8_t* at) { return {half_line(at), half_line(at + kLine / 2)}; }
INLINE void put_line(uint8_t* at, const Line& line) {
  _mm256_store_si256(reinterpret_cast<Half*>(at), line.low);
  _mm256_store_si256(reinterpret_cast<Half*>(at + kLine / 2), line.high);
}

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
constexpr bool kSigned = false;  // integers + 128
#else
constexpr bool kSigned = true;
#endif
INLINE Half take_off_128(Half integers) { return _mm256_xor_si256(integers, _mm256_set1_epi8(-128)); }
INLINE Half in_form(Half integers) { return kSigned ? take_off_128(integers) : integers; }
INLINE Table table(const uint8_t* entries) {
  Table all;
  for (int i = 0; i < 4; i++)
    all.part[i] = in_form(_mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + 16 * i))));
  return all;
}

template <int Bits, int G>
INLINE Half lookup_half(const uint8_t* tile, const Table& table) {
  if constexpr (Bits == 8) return in_form(half_line(tile + G * kLine));
  Half index = half_line(tile + G / 2 * kLine);
  if constexpr (G % 2) index = _mm256_srli_epi16(index, 4);
  index = _mm256_and_si256(index, _mm256_set1_epi8(15));
  if constexpr (Bits == 4) return _mm256_shuffle_epi8(table.part[0], index);
  const auto choose = [](Half no, Half yes, Half highest_bits) {
    return _mm256_blendv_epi8(no, yes, highest_bits);
  };
  const Half upper = half_line(tile + (Bits == 5 ? 4 : 4 + G / 4) * kLine);
  constexpr int bit = Bits == 5 ? G : 2 * (G % 4);
  const Half first = choose(_mm256_shuffle_epi8(table.part[0], index),
                            _mm256_shuffle_epi8(table.part[1], index), _mm256_slli_epi16(upper, 7 - bit));
  if constexpr (Bits == 5) return first;
  const Half second = choose(_mm256_shuffle_epi8(table.part[2], index),
                             _mm256_shuffle_epi8(table.part[3], index), _mm256_slli_epi16(upper, 7 - bit));
  return choose(first, second, _mm256_slli_epi16(upper, 6 - bit));
}
template <int Bits, int G>
INLINE Line lookup(const uint8_t* tile, const Table& table) {
  return {lookup_half<Bits, G>(tile, table), lookup_half<Bits, G>(tile + kLine / 2, table)};
}
INLINE Half four(const int8_t* x) {
  int32_t numbers;
  std::memcpy(&numbers, x, sizeof numbers);
  return _mm256_set1_epi32(numbers);
}
#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
constexpr int kWidened = 8;
using Factors = Line;
template <int Bits, int G>
INLINE Factors factors(const uint8_t* tile, const Table& table) { return lookup<Bits, G>(tile, table); }
template <int G>
INLINE void widen(const Factors& integers, uint8_t* tile) { put_line(tile + G * kLine, integers); }
INLINE Sums start(int32_t offset) { return {_mm256_set1_epi32(offset), _mm256_set1_epi32(offset)}; }
INLINE Sums dot(const Sums& sums, const Line& integers, const int8_t* x) {
  const Half all = four(x);
  return {_mm256_dpbusd_epi32(sums.low, integers.low, all), _mm256_dpbusd_epi32(sums.high, integers.high, all)};
}
#else
// The instruction multiplies unsigned by signed bytes, so the weights' signs go to the activations.
// Products of pairs are added in 16 bits, which |integer| * x never leaves: 2 * 128 * 127 < 2**15.
constexpr int kWidened = 16;  // magnitudes after integers
struct Factors { Line integers, magnitudes; };
template <int Bits, int G>
INLINE Factors factors(const uint8_t* tile, const Table& table) {
  if constexpr (Bits == kWidened) {
    return {line(tile + G * kLine), line(tile + (8 + G) * kLine)};
  } else {
    const Line integers = lookup<Bits, G>(tile, table);
    return {integers, {_mm256_abs_epi8(integers.low), _mm256_abs_epi8(integers.high)}};
  }
}
template <int G>
INLINE void widen(const Factors& factors, uint8_t* tile) {
  put_line(tile + G * kLine, factors.integers);
  put_line(tile + (8 + G) * kLine, factors.magnitudes);
}
INLINE Sums start(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// In assembly, because GCC would add the products of a tile as a tree, and keep them in memory till then.
INLINE Half dot_half(Half sums, Half integers, Half magnitudes, Half x) {
  Half products;
  asm("vpsignb %3, %2, %1\n\tvpmaddubsw %1, %4, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sums), "=&x"(products)
      : "x"(x), "x"(integers), "x"(magnitudes), "x"(_mm256_set1_epi16(1)));
  return sums;
}
INLINE Sums dot(const Sums& sums, const Factors& w, const int8_t* x) {
  const Half all = four(x);
  return {dot_half(sums.low, w.integers.low, w.magnitudes.low, all),
          dot_half(sums.high, w.integers.high, w.magnitudes.high, all)};
}
#endif
INLINE Wide to_float(const Sums& sums) {
  return {_mm256_cvtepi32_ps(sums.low), _mm256_cvtepi32_ps(sums.high)};
}
INLINE Wide fused(const Wide& a, const Wide& b, const Wide& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE Wide times(const Wide& a, float b) {
  return {_mm256_mul_ps(a.low, _mm256_set1_ps(b)), _mm256_mul_ps(a.high, _mm256_set1_ps(b))};
}
INLINE Wide zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE Wide wide(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
INLINE void put(float* at, const Wide& x) {
  _mm256_storeu_ps(at, x.low);
  _mm256_storeu_ps(at + 8, x.high);
}
INLINE __m256 half_e8m0(const uint8_t* bytes) {
  const Half wide = _mm256_cvtepu8_epi32(_mm_loadu_si64(bytes));
  return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_slli_epi32(wide, 23), _mm256_set1_epi32(0x400000)));
}
INLINE Wide scale_e8m0(const uint8_t* bytes) { return {half_e8m0(bytes), half_e8m0(bytes + 8)}; }
INLINE __m256 half_s1e4m3(const uint8_t* bytes) {
  const Half wide = _mm256_cvtepi8_epi32(_mm_loadu_si64(bytes));
  const Half bits = _mm256_and_si256(_mm256_slli_epi32(wide, 20), _mm256_set1_epi32(int(0x87F00000)));
  return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(112 << 23)));
}
INLINE Wide scale_s1e4m3(const uint8_t* bytes) { return {half_s1e4m3(bytes), half_s1e4m3(bytes + 8)}; }

#else  // plain C++, the text to read

constexpr int kWidened = 8;
struct Sums { int32_t lane[kPanel]; };
struct Wide { float lane[kPanel]; };
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
template <int Bits, int G>
INLINE Factors factors(const uint8_t* tile, Table table) { return lookup<Bits, G>(tile, table); }
template <int G>
INLINE void widen(const Factors& integers, uint8_t* tile) { std::memcpy(tile + G * kLine, &integers, kLine); }
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
  for (int i = 0; i < kPanel; i++) y.lane[i] = float(sums.lane[i]);
  return y;
}
INLINE Wide fused(const Wide& a, const Wide& b, const Wide& c) {
  Wide y;
  for (int i = 0; i < kPanel; i++) y.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return y;
}
INLINE Wide times(const Wide& a, float b) {
  Wide y;
  for (int i = 0; i < kPanel; i++) y.lane[i] = a.lane[i] * b;
  return y;
}
INLINE Wide zero() { return {}; }
INLINE Wide wide(const float* at) { return bits_as<Wide>(load(at)); }
INLINE void put(float* at, const Wide& x) { std::memcpy(at, &x, sizeof x); }
INLINE Wide scale_e8m0(const uint8_t* bytes) {
  Wide y;
  for (int i = 0; i < kPanel; i++) y.lane[i] = power_of_two(bytes[i] - 127);
  return y;
}
INLINE Wide scale_s1e4m3(const uint8_t* bytes) {
  Wide y;
  for (int i = 0; i < kPanel; i++) {
    const uint32_t magnitude = uint32_t((112 << 3) + (bytes[i] & 127)) << 20;
    y.lane[i] = bits_as<float>(magnitude | uint32_t(bytes[i] & 128) << 24);
  }
  return y;
}

#endif

INLINE Wide scales(const Tiles& w, const uint8_t* bytes) {
  if (w.scale == Scale::s1e4m3) return scale_s1e4m3(bytes);
  if (w.scale == Scale::e8m0) return scale_e8m0(bytes);
  float values[kPanel];
  for (int i = 0; i < kPanel; i++) values[i] = w.ue4m3[bytes[i]];
  return wide(values);
}

}  // namespace
}  // namespace strop
