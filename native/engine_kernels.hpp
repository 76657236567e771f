// What the engine asks of an instruction set. Every set gives the same bits: integers do not round,
// and floats are added in an order that depends neither on the set nor on how many rows there are.
#pragma once

#include <cstdint>

#include "tiles.hpp"

namespace strop {

// Rows of numbers in blocks of 32 integers of eight bits (-127..127), with a float scale for each.
// Up to kRowGroup rows make a group, in which the first blocks of all rows come first, then the second
// ones, and so on: so a kernel that works on several rows needs one address.
constexpr int64_t kRowGroup = 12;

constexpr int64_t kWidenedBytes = 16 * kLine;  // that a tile takes whose codes were looked up, at most

struct Activations {
  int64_t rows, tiles;  // tiles: blocks of a row
  int8_t* codes;        // 32 of each block
  float* scales;        // of each block
  int32_t* offsets;  // three of each block: -128 times the sum of the first 16 codes, the last, all

  // The place of a row's first block; its others follow at steps of step(row).
  int64_t first(int64_t row) const { return row / kRowGroup * kRowGroup * tiles + row % kRowGroup; }
  int64_t step(int64_t row) const {
    const int64_t beyond = rows - row / kRowGroup * kRowGroup;
    return beyond < kRowGroup ? beyond : kRowGroup;
  }
};

enum class CacheFormat : int { fp16, bfp8 };

// The keys and values of one head, which lie as follows; positions are padded to kKeysPad.
//   fp16: keys (tile of 16 positions, dimension, position), values (position, padded dimension)
//   bfp8: the same in int8, and float scales: keys (tile, block of 32 dimensions, position), values
//         (position, block)
struct Head {
  uint8_t* keys;
  uint8_t* values;
  float* key_scales;
  float* value_scales;
  int64_t size;    // of a key, in numbers
  int64_t padded;  // the same, rounded up to 16
  int64_t blocks;  // of 32 numbers in a key
};

constexpr int kKeys = 16;     // positions in a tile of keys
constexpr int kKeysPad = 64;  // a multiple of which a cache has room for
constexpr int kQueries = 6;   // that are worked on together, at most

struct Query {
  const float* query;
  float* output;
  int64_t first, last;  // positions that it sees, both included
};

struct EngineKernels {
  // 32 * tiles numbers become a row.
  void (*quantize)(const float* x, const Activations& to, int64_t row);
  // out[row * stride + r] for the rows of activations and the 16 rows of a panel. `scratch` is room
  // for a widened panel: kWidenedBytes for each tile, aligned.
  void (*multiply)(const Tiles&, Panel, const Activations&, uint8_t* scratch, float* out,
                   int64_t stride);
  void (*rms_norm)(const float* x, const float* weight, int64_t size, float epsilon, float* y);
  void (*add)(float* x, const float* y, int64_t size);  // x += y
  // Turns each pair (x[i], x[i + pairs]) by an angle.
  void (*rotate)(float* x, const float* cosines, const float* sines, int64_t pairs);
  void (*gate)(const float* gate, const float* up, int64_t size, float* y);  // silu(gate) * up
  void (*store)(CacheFormat, const Head&, int64_t position, const float* key, const float* value);
  // `scores` is room for count rows of `stride` floats, which is a multiple of kKeysPad and at least
  // that much beyond the last position.
  void (*attend)(CacheFormat, const Head&, const Query* queries, int count, float factor,
                 float* scores, int64_t stride);
};

namespace scalar { extern const EngineKernels engine_kernels; }
namespace avx2 { extern const EngineKernels engine_kernels; }
namespace avxvnni { extern const EngineKernels engine_kernels; }
namespace avx512vl { extern const EngineKernels engine_kernels; }
namespace avx512 { extern const EngineKernels engine_kernels; }

}  // namespace strop
