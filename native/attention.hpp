// Keys, values and attention of one head. Scores are sums over dimensions in order, outputs sums
// over positions in order, whatever else is computed beside them.
#pragma once

#include <iterator>

#include "engine_kernels.hpp"
#include "floats.hpp"

namespace strop {
namespace {

// ---- Half precision ----------------------------------------------------------------------------

// Rounded to nearest, ties to even; beyond the largest, the largest, so that no score is infinite.
INLINE uint16_t to_half(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return uint16_t(sign | 0x7E00);
  if (magnitude >= 0x477FE000) return uint16_t(sign | 0x7BFF);
  if (magnitude < 0x38800000)  // subnormal: adding 0.5 leaves its 10 bits at the end
    return uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3F000000));
  return uint16_t(sign | ((magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000) >> 13));
}

#if defined(__AVX512F__)
INLINE Strip from_halves(const uint16_t* at) {
  return bits_as<Strip>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))));
}
INLINE Strip from_bytes(const int8_t* at) {
  return bits_as<Strip>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)))));
}
#elif defined(__AVX2__)
INLINE Strip from_halves(const uint16_t* at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
INLINE Strip from_bytes(const int8_t* at) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(at)));
}
#else
INLINE Strip from_halves(const uint16_t* at) {
  using Halves = uint16_t __attribute__((vector_size(2 * kStrip)));
  Halves halves;
  std::memcpy(&halves, at, sizeof halves);
  const StripInts wide = __builtin_convertvector(halves, StripInts), magnitude = wide & 0x7FFF;
  const Strip normal = bits_as<Strip>((magnitude << 13) + (112 << 23));
  const Strip subnormal = __builtin_convertvector(magnitude, Strip) * 0x1p-24f;
  const Strip finite = magnitude < 0x400 ? subnormal : normal;
  const Strip value = magnitude < 0x7C00 ? finite : broadcast(__builtin_nanf(""));  // see to_half
  return bits_as<Strip>(bits_as<StripInts>(value) | (wide & 0x8000) << 16);
}
INLINE Strip from_bytes(const int8_t* at) {
  using Bytes = int8_t __attribute__((vector_size(kStrip)));
  Bytes bytes;
  std::memcpy(&bytes, at, sizeof bytes);
  return __builtin_convertvector(bytes, Strip);
}
#endif

// ---- Reading and writing a head ----------------------------------------------------------------

struct Fp16 {
  // Dimension d of the keys from a position on; of one value, the dimensions from d on.
  static INLINE Strip key(const Head& h, int64_t position, int64_t d) {
    const int64_t tile = position / kKeys;
    return from_halves(reinterpret_cast<const uint16_t*>(h.keys) + (tile * h.size + d) * kKeys + position % kKeys);
  }
  static INLINE Strip value(const Head& h, int64_t position, int64_t d) {
    return from_halves(reinterpret_cast<const uint16_t*>(h.values) + position * h.padded + d);
  }
  static void store(const Head& h, int64_t position, const float* key, const float* value) {
    auto* keys = reinterpret_cast<uint16_t*>(h.keys) + position / kKeys * h.size * kKeys;
    auto* values = reinterpret_cast<uint16_t*>(h.values) + position * h.padded;
    for (int64_t d = 0; d < h.size; d++) keys[d * kKeys + position % kKeys] = to_half(key[d]);
    for (int64_t d = 0; d < h.size; d++) values[d] = to_half(value[d]);
  }
};

struct Bfp8 {
  static INLINE Strip key(const Head& h, int64_t position, int64_t d) {
    const int64_t tile = position / kKeys, lane = position % kKeys;
    const auto* keys = reinterpret_cast<const int8_t*>(h.keys) + (tile * h.size + d) * kKeys + lane;
    return from_bytes(keys) * strip(h.key_scales + (tile * h.blocks + d / kTile) * kKeys + lane);
  }
  static INLINE Strip value(const Head& h, int64_t position, int64_t d) {
    const auto* values = reinterpret_cast<const int8_t*>(h.values) + position * h.padded + d;
    return from_bytes(values) * h.value_scales[position * h.blocks + d / kTile];
  }
  static void store(const Head& h, int64_t position, const float* key, const float* value) {
    auto* keys = reinterpret_cast<int8_t*>(h.keys) + position / kKeys * h.size * kKeys;
    auto* values = reinterpret_cast<int8_t*>(h.values) + position * h.padded;
    for (int64_t block = 0; block < h.blocks; block++) {
      const int64_t first = block * kTile, count = h.size - first < kTile ? h.size - first : kTile;
      int8_t codes[kTile];
      int32_t sums[2];
      float x[kTile] = {};
      std::memcpy(x, key + first, size_t(count) * sizeof(float));
      h.key_scales[(position / kKeys * h.blocks + block) * kKeys + position % kKeys] =
          quantize_32(x, codes, sums);
      for (int64_t i = 0; i < count; i++) keys[(first + i) * kKeys + position % kKeys] = codes[i];
      std::memset(x, 0, sizeof x);
      std::memcpy(x, value + first, size_t(count) * sizeof(float));
      h.value_scales[position * h.blocks + block] = quantize_32(x, codes, sums);
      std::memcpy(values + first, codes, size_t(count));
    }
  }
};

// ---- Attention ---------------------------------------------------------------------------------

// Strips of sums for each of so many queries: enough that none waits for its last addition, and at
// most what there are registers for.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kScoresTogether[] = {0, 8, 4, 4, 2, 2, 2}, kValuesTogether[] = {0, 8, 4, 4, 2, 2, 2};
#else
constexpr int kScoresTogether[] = {0, 4, 2, 2, 2, 2, 2}, kValuesTogether[] = {0, 4, 4, 4, 4, 4, 4};
#endif

// Scores of N queries with some strips of keys.
template <class Cache, int N>
INLINE void score_strips(const Head& h, const Query* queries, float factor, int64_t position,
                         float* scores, int64_t stride) {
  constexpr int kTogether = kScoresTogether[N];
  Strip sums[N][kTogether] = {};
  for (int64_t d = 0; d < h.size; d++)
    for (int i = 0; i < kTogether; i++) {
      const Strip keys = Cache::key(h, position + i * kStrip, d);
      for (int n = 0; n < N; n++)
        sums[n][i] = multiply_add(broadcast(queries[n].query[d]), keys, sums[n][i]);
    }
  for (int n = 0; n < N; n++)
    for (int i = 0; i < kTogether; i++)
      store(scores + n * stride + position + i * kStrip, sums[n][i] * factor);
}

// Scores become weights, zero for positions that the query does not see; returns their sum. `low` and
// `high` are multiples of sixteen.
INLINE float soften(float* scores, int64_t low, int64_t high, int64_t first, int64_t last) {
  StripInts lane;
  for (int i = 0; i < kStrip; i++) lane[i] = i;
  const auto seen = [&](int64_t at) {
    return (lane >= int32_t(first - at)) & (lane <= int32_t(last - at));
  };
  Strip most = broadcast(-__builtin_inff());
  for (int64_t at = low; at < high; at += kStrip)
    most = larger(seen(at) ? strip(scores + at) : most, most);
  const float top = largest(most);
  Strip sums[kStrips] = {};
  for (int64_t at = low; at < high; at += kLanes)
    for (int s = 0; s < kStrips; s++) {
      float* here = scores + at + s * kStrip;
      const Strip weight = seen(at + s * kStrip) ? exponential(strip(here) - top) : Strip{};
      store(here, weight);
      sums[s] += weight;
    }
  return sum(sums);
}

// Sums of the values of positions low..high, weighted, for N queries and V strips of dimensions. A
// query leaves out what it does not see: a weight of zero would not make a number of a NaN.
template <class Cache, int N, int V>
INLINE void add_values(const Head& h, const Query* queries, const float* scores, int64_t stride,
                       const float* totals, int64_t low, int64_t high, int64_t d) {
  int64_t all_from = low, all_to = high;  // what every query sees
  for (int n = 0; n < N; n++) {
    all_from = queries[n].first > all_from ? queries[n].first : all_from;
    all_to = queries[n].last < all_to ? queries[n].last : all_to;
  }
  Strip sums[N][V] = {};
  const auto add = [&](int64_t at, auto sees) __attribute__((always_inline)) {
    Strip values[V];
    for (int v = 0; v < V; v++) values[v] = Cache::value(h, at, d + v * kStrip);
    for (int n = 0; n < N; n++) {
      if (!sees(queries[n], at)) continue;
      const Strip weight = broadcast(scores[n * stride + at]);
      for (int v = 0; v < V; v++) sums[n][v] = multiply_add(weight, values[v], sums[n][v]);
    }
  };
  const auto some = [](const Query& q, int64_t at) { return q.first <= at && at <= q.last; };
  const auto every = [](const Query&, int64_t) { return true; };
  int64_t at = low;
  for (; at <= high && at < all_from; at++) add(at, some);
  for (; at <= all_to; at++) add(at, every);
  for (; at <= high; at++) add(at, some);
  for (int n = 0; n < N; n++)
    for (int v = 0; v < V; v++) {
      const int64_t from = d + v * kStrip, count = h.size - from < kStrip ? h.size - from : kStrip;
      const Strip mean = sums[n][v] / totals[n];
      if (count > 0) std::memcpy(queries[n].output + from, &mean, size_t(count) * sizeof(float));
    }
}

template <class Cache, int N>
void attend_together(const Head& h, const Query* queries, float factor, float* scores,
                     int64_t stride) {
  int64_t first = queries[0].first, last = queries[0].last;
  for (int n = 1; n < N; n++) {
    first = queries[n].first < first ? queries[n].first : first;
    last = queries[n].last > last ? queries[n].last : last;
  }
  const int64_t low = first / kKeys * kKeys, high = last / kKeys * kKeys + kKeys;
  for (int64_t at = low; at < high; at += kScoresTogether[N] * kStrip)
    score_strips<Cache, N>(h, queries, factor, at, scores, stride);
  float totals[N];
  for (int n = 0; n < N; n++)
    totals[n] = soften(scores + n * stride, low, high, queries[n].first, queries[n].last);
  constexpr int V = kValuesTogether[N];
  int64_t d = 0;
  for (; d + V * kStrip <= h.padded; d += V * kStrip)
    add_values<Cache, N, V>(h, queries, scores, stride, totals, first, last, d);
  for (; d < h.padded; d += kStrip)
    add_values<Cache, N, 1>(h, queries, scores, stride, totals, first, last, d);
}

template <class Cache>
void attend_all(const Head& h, const Query* queries, int count, float factor, float* scores,
                int64_t stride) {
  constexpr decltype(&attend_together<Cache, 1>) kernels[] = {
      attend_together<Cache, 1>, attend_together<Cache, 2>, attend_together<Cache, 3>,
      attend_together<Cache, 4>, attend_together<Cache, 5>, attend_together<Cache, 6>};
  static_assert(std::size(kernels) == kQueries);
  kernels[count - 1](h, queries, factor, scores, stride);
}

void attend(CacheFormat format, const Head& h, const Query* queries, int count, float factor,
            float* scores, int64_t stride) {
  if (format == CacheFormat::fp16) attend_all<Fp16>(h, queries, count, factor, scores, stride);
  else attend_all<Bfp8>(h, queries, count, factor, scores, stride);
}

void store(CacheFormat format, const Head& h, int64_t position, const float* key,
           const float* value) {
  if (format == CacheFormat::fp16) Fp16::store(h, position, key, value);
  else Bfp8::store(h, position, key, value);
}

}  // namespace
}  // namespace strop
