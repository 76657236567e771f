// A packed matrix as the engine reads it.
//
// Sixteen rows make a panel, and 32 columns of a panel a tile of 64 * bits bytes. A tile begins with
// four lines of 64 bytes: byte 4r + i of line j holds, for row r, the low four bits of the codes of
// columns 8j + i (in its low half) and 8j + 4 + i (in its high half). Codes of five bits add a line,
// whose bit g is the fifth bit of column 4g + i; codes of six bits add two, with two bits for each of
// four g. Codes of eight bits are not split: line g holds integer + 128 of columns 4g + i. So one
// load brings four columns of sixteen rows: the operand of a dot product in 32-bit lanes, each of
// which belongs to a row. A picture is in docs/concepts/engine.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "quantize.hpp"

namespace strop {

constexpr int kPanel = 16;  // rows
constexpr int kTile = 32;   // columns
constexpr int kLine = 64;   // bytes

constexpr int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// What the kernels need to know of a matrix. Its values are
//   factor * scale(block) * (table[code] - 128).
struct Tiles {
  int64_t rows, cols;
  int64_t panels, tiles;  // panels of the matrix, tiles of a panel
  int bits;               // of a code in a tile: 4, 5, 6 or 8
  int block;              // columns that share a scale: 16 or 32
  Scale scale;            // e8m0, ue4m3 or s1e4m3
  float factor;           // of all values
  uint8_t table[64];      // integer + 128 of each code; repeated to 64 where there are fewer
  float ue4m3[256];       // values of the scale bytes, where that is the kind of the scales

  int64_t panel_bytes() const { return tiles * kLine * bits; }
  int64_t panel_scales() const { return tiles * kPanel * (kTile / block); }
};

// Codes and scales of one panel; scales of a tile lie together, those of its first block first.
struct Panel {
  const uint8_t* codes;
  const uint8_t* scales;
  bool valid;  // whether all codes and scales are numbers
};

// Where the parts of a packed tensor lie: rows of codes and of scales, as in BlockTensor.
struct Source {
  const uint8_t* codes;  // of a nested format, the upper plane, which the lower one follows
  const uint8_t* scales;
  int64_t row_bytes, row_scales;
};

class Matrix {
 public:
  // Throws std::invalid_argument where the kernels cannot multiply this format. With `resident` the
  // tiles are made now, in memory of their own; else each panel is made whenever it is used.
  Matrix(const Format& format, float tensor_scale, int64_t rows, int64_t cols, Source source,
         bool resident, int threads);

  const Tiles& tiles() const { return tiles_; }
  Panel panel(int64_t index, uint8_t* scratch) const;  // scratch of scratch_bytes()
  int64_t scratch_bytes() const;                       // 0 if resident
  int64_t nbytes() const;                              // of codes and scales
  // Dequantizes a row; says whether all of its panel are numbers.
  bool row(int64_t index, float* values, uint8_t* scratch) const;

 private:
  bool make_panel(int64_t index, uint8_t* codes, uint8_t* scales, uint8_t* row) const;

  Tiles tiles_;
  Source source_;
  int code_bits_, planes_;
  uint8_t tile_code_[256];  // code in the file -> code in the tile
  bool valid_code_[256], valid_scale_[256];
  bool all_codes_valid_;
  std::shared_ptr<std::byte> memory_;  // keeps the tiles alive; null when they are made at each use
  const uint8_t* codes_ = nullptr;
  const uint8_t* scales_ = nullptr;
};

// Whether every value of a format is an integer of eight bits times one power of two, which goes to
// `unit`, and its scale one that the kernels know.
bool runs_format(const Format& format, float* unit = nullptr);

}  // namespace strop
