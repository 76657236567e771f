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
INLINE Floats from_halves(const uint16_t* at) {
  return bits_as<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))));
}
#elif defined(__F16C__)
INLINE Floats from_halves(const uint16_t* at) {
  struct Two { __m256 part[2]; };
  const auto* from = reinterpret_cast<const __m128i*>(at);
  return bits_as<Floats>(Two{_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))});
}
#else
INLINE Floats from_halves(const uint16_t* at) {
  using Halves = uint16_t __attribute__((vector_size(32)));
  Halves halves;
  std::memcpy(&halves, at, sizeof halves);
  const Ints wide = __builtin_convertvector(halves, Ints), magnitude = wide & 0x7FFF;
  const Floats normal = bits_as<Floats>((magnitude << 13) + (112 << 23));
  const Floats subnormal = __builtin_convertvector(magnitude, Floats) * 0x1p-24f;
  const Floats finite = magnitude < 0x400 ? subnormal : normal;
  const Floats value = magnitude < 0x7C00 ? finite : broadcast(__builtin_nanf(""));  // see to_half
  return bits_as<Floats>(bits_as<Ints>(value) | (wide & 0x8000) << 16);
}
#endif

INLINE Floats from_bytes(const int8_t* at) {
  using Bytes = int8_t __attribute__((vector_size(16)));
  Bytes bytes;
  std::memcpy(&bytes, at, sizeof bytes);
  return __builtin_convertvector(bytes, Floats);
}

// ---- Reading and writing a head ----------------------------------------------------------------

struct Fp16 {
  // Dimension d of the 16 keys of a tile; of one value, dimensions d to d + 15.
  static INLINE Floats key(const Head& h, int64_t tile, int64_t d) {
    return from_halves(reinterpret_cast<const uint16_t*>(h.keys) + (tile * h.size + d) * kKeys);
  }
  static INLINE Floats value(const Head& h, int64_t position, int64_t d) {
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
  static INLINE Floats key(const Head& h, int64_t tile, int64_t d) {
    const auto* keys = reinterpret_cast<const int8_t*>(h.keys) + (tile * h.size + d) * kKeys;
    return from_bytes(keys) * load(h.key_scales + (tile * h.blocks + d / kTile) * kKeys);
  }
  static INLINE Floats value(const Head& h, int64_t position, int64_t d) {
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

// Enough sums at once that none waits for its last addition.
constexpr int tiles_together(int queries) { return queries == 1 ? kKeysPad / kKeys : 2; }

// Scores of N queries with the keys of kTogether tiles.
template <class Cache, int N>
INLINE void score_tiles(const Head& h, const Query* queries, float factor, int64_t tile,
                        float* scores, int64_t stride) {
  constexpr int kTogether = tiles_together(N);
  Floats sums[N][kTogether] = {};
  for (int64_t d = 0; d < h.size; d++) {
    Floats keys[kTogether];
    for (int i = 0; i < kTogether; i++) keys[i] = Cache::key(h, tile + i, d);
    for (int n = 0; n < N; n++)
      for (int i = 0; i < kTogether; i++)
        sums[n][i] = multiply_add(broadcast(queries[n].query[d]), keys[i], sums[n][i]);
  }
  for (int n = 0; n < N; n++)
    for (int i = 0; i < kTogether; i++)
      store(scores + n * stride + (tile + i) * kKeys, sums[n][i] * factor);
}

// Scores become weights, zero for positions that the query does not see; returns their sum.
INLINE float soften(float* scores, int64_t low, int64_t high, int64_t first, int64_t last) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const auto seen = [&](int64_t at) {
    return (lane >= int32_t(first - at)) & (lane <= int32_t(last - at));
  };
  Floats most = broadcast(-__builtin_inff());
  for (int64_t at = low; at < high; at += kLanes)
    most = larger(seen(at) ? load(scores + at) : most, most);
  const float top = largest(most);
  Floats sums{};
  for (int64_t at = low; at < high; at += kLanes) {
    const Floats weight = seen(at) ? exponential(load(scores + at) - top) : Floats{};
    store(scores + at, weight);
    sums += weight;
  }
  return sum(sums);
}

// Sums of the values of positions low..high, weighted, for N queries and V times 16 dimensions. A
// query leaves out what it does not see: a weight of zero would not make a number of a NaN.
template <class Cache, int N, int V>
INLINE void add_values(const Head& h, const Query* queries, const float* scores, int64_t stride,
                       const float* totals, int64_t low, int64_t high, int64_t d) {
  int64_t all_from = low, all_to = high;  // what every query sees
  for (int n = 0; n < N; n++) {
    all_from = queries[n].first > all_from ? queries[n].first : all_from;
    all_to = queries[n].last < all_to ? queries[n].last : all_to;
  }
  Floats sums[N][V] = {};
  const auto add = [&](int64_t at, auto sees) __attribute__((always_inline)) {
    Floats values[V];
    for (int v = 0; v < V; v++) values[v] = Cache::value(h, at, d + v * kLanes);
    for (int n = 0; n < N; n++) {
      if (!sees(queries[n], at)) continue;
      const Floats weight = broadcast(scores[n * stride + at]);
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
      const int64_t from = d + v * kLanes, count = h.size - from < kLanes ? h.size - from : kLanes;
      const Floats mean = sums[n][v] / totals[n];
      std::memcpy(queries[n].output + from, &mean, size_t(count) * sizeof(float));
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
  for (int64_t tile = low / kKeys; tile * kKeys < high; tile += tiles_together(N))
    score_tiles<Cache, N>(h, queries, factor, tile, scores, stride);
  float totals[N];
  for (int n = 0; n < N; n++)
    totals[n] = soften(scores + n * stride, low, high, queries[n].first, queries[n].last);
  int64_t d = 0;
  for (; d + 4 * kLanes <= h.padded; d += 4 * kLanes)
    add_values<Cache, N, 4>(h, queries, scores, stride, totals, first, last, d);
  for (; d < h.padded; d += kLanes)
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
