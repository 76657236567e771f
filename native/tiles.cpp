// From rows of packed codes to tiles.

#include "tiles.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <vector>

#include "threads.hpp"

namespace strop {
namespace {

float scale_value(Scale kind, int byte) {
  if (kind == Scale::e8m0) return byte == 255 ? NAN : std::ldexp(1.0f, byte - 127);
  if (kind == Scale::s1e4m3) {
    if (byte == 255) return NAN;
    const float magnitude = std::ldexp(float(8 + (byte & 7)), (byte >> 3 & 15) - 18);
    return byte < 128 ? magnitude : -magnitude;
  }
  if (byte >= 127) return NAN;
  const int exponent = byte >> 3, mantissa = byte & 7;
  return std::ldexp(float(exponent ? 8 + mantissa : mantissa), (exponent ? exponent : 1) - 10);
}

// Memory for tiles comes from large pieces, so that huge pages can back them.
constexpr size_t kPiece = size_t(64) << 20;
constexpr size_t kHugePage = size_t(2) << 20;

std::shared_ptr<std::byte> map_pages(size_t bytes) {
  bytes = (bytes + 2 * kHugePage - 1) / kHugePage * kHugePage;
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  madvise(start, bytes, MADV_HUGEPAGE);  // where they are not allowed, small pages do
  return {static_cast<std::byte*>(start), [bytes](std::byte* at) { munmap(at, bytes); }};
}

std::shared_ptr<std::byte> allocate(size_t bytes) {
  static std::mutex lock;
  static std::weak_ptr<std::byte> last;
  static std::byte* free_from;
  static std::byte* end;
  const std::lock_guard<std::mutex> held(lock);
  bytes = (bytes + kLine - 1) / kLine * kLine;
  std::shared_ptr<std::byte> piece = last.lock();
  if (!piece || size_t(end - free_from) < bytes) {
    const size_t whole = bytes > kPiece / 4 ? bytes : kPiece;
    piece = map_pages(whole);
    const size_t misaligned = reinterpret_cast<uintptr_t>(piece.get()) % kHugePage;
    std::byte* aligned = piece.get() + (misaligned ? kHugePage - misaligned : 0);
    if (whole != kPiece) return {piece, aligned};
    last = piece;
    free_from = aligned;
    end = free_from + kPiece;
  }
  std::byte* at = free_from;
  free_from += bytes;
  return {piece, at};
}

uint32_t four(const uint8_t* codes) {
  uint32_t word;
  std::memcpy(&word, codes, sizeof word);
  return word;
}

// The codes of 32 columns of a row, a byte each, go to that row's place in a tile.
void place(const uint8_t* codes, int bits, uint8_t* tile, int row) {
  const auto put = [&](int line, uint32_t word) {
    std::memcpy(tile + line * kLine + 4 * row, &word, sizeof word);
  };
  if (bits == 8) {
    for (int g = 0; g < 8; g++) put(g, four(codes + 4 * g));
    return;
  }
  for (int j = 0; j < 4; j++)
    put(j, (four(codes + 8 * j) & 0x0F0F0F0F) | (four(codes + 8 * j + 4) & 0x0F0F0F0F) << 4);
  if (bits == 5) {
    uint32_t fifth = 0;
    for (int g = 0; g < 8; g++) fifth |= (four(codes + 4 * g) >> 4 & 0x01010101) << g;
    put(4, fifth);
  } else if (bits == 6) {
    for (int half = 0; half < 2; half++) {
      uint32_t upper = 0;
      for (int g = 0; g < 4; g++)
        upper |= (four(codes + 16 * half + 4 * g) >> 4 & 0x03030303) << 2 * g;
      put(4 + half, upper);
    }
  }
}

// The code of column `col` in a row of packed codes.
int code_at(const uint8_t* packed, int64_t col, int bits) {
  const int64_t bit = col * bits;
  int word = packed[bit / 8];
  if (bit % 8 + bits > 8) word |= packed[bit / 8 + 1] << 8;
  return word >> bit % 8 & ((1 << bits) - 1);
}

// Eight codes at a time, while eight bytes can be read.
void spread_row(const uint8_t* packed, int64_t bytes, int64_t cols, int bits, uint8_t* codes) {
  const uint64_t mask = (1u << bits) - 1;
  int64_t col = 0;
  for (int64_t at = 0; col + 8 <= cols && at + 8 <= bytes; col += 8, at += bits) {
    uint64_t word;
    std::memcpy(&word, packed + at, sizeof word);
    for (int i = 0; i < 8; i++) codes[col + i] = uint8_t(word >> i * bits & mask);
  }
  for (; col < cols; col++) codes[col] = uint8_t(code_at(packed, col, bits));
}

}  // namespace

bool runs_format(const Format& format, float* unit) {
  if (format.scale == Scale::micro) return false;
  for (float trial = 1.0f; trial > 0x1p-30f; trial /= 2) {
    bool fits = true;
    for (int code = 0; code < 1 << format.code_bits; code++) {
      const float integer = format.values[code] / trial;
      if (std::isnan(integer)) continue;
      fits = fits && integer == std::floor(integer) && integer >= -128 && integer <= 127;
    }
    if (unit) *unit = trial;
    if (fits) return true;
  }
  return false;
}

Matrix::Matrix(const Format& format, float tensor_scale, int64_t rows, int64_t cols, Source source,
               bool resident, int threads)
    : source_(source), code_bits_(format.code_bits), planes_(format.planes) {
  float unit;
  if (!runs_format(format, &unit))
    throw std::invalid_argument("the engine does not multiply this format");
  if (rows < 1 || cols < 1) throw std::invalid_argument("a matrix needs rows and columns");
  tiles_.rows = rows;
  tiles_.cols = cols;
  tiles_.panels = (rows + kPanel - 1) / kPanel;
  tiles_.tiles = (cols + kTile - 1) / kTile;
  tiles_.bits = code_bits_ <= 4 ? 4 : code_bits_ <= 6 ? code_bits_ : 8;
  tiles_.block = format.block;
  tiles_.scale = format.scale;
  tiles_.factor = tensor_scale * unit;
  if (!std::isfinite(tiles_.factor)) throw std::invalid_argument("the tensor scale is not finite");
  const int count = 1 << code_bits_;
  all_codes_valid_ = true;
  for (int code = 0; code < count; code++) {
    const float value = format.values[code];
    valid_code_[code] = !std::isnan(value);
    all_codes_valid_ = all_codes_valid_ && valid_code_[code];
    const uint8_t integer = valid_code_[code] ? uint8_t(int(value / unit) + 128) : 128;
    tile_code_[code] = tiles_.bits == 8 ? integer : uint8_t(code);
    if (tiles_.bits < 8)
      for (int copy = code; copy < 64; copy += count) tiles_.table[copy] = integer;
  }
  for (int byte = 0; byte < 256; byte++) {
    tiles_.ue4m3[byte] = scale_value(Scale::ue4m3, byte);
    valid_scale_[byte] = !std::isnan(scale_value(format.scale, byte));
  }
  if (!resident) return;

  const int64_t code_bytes = tiles_.panels * tiles_.panel_bytes();
  memory_ = allocate(size_t(nbytes()));
  uint8_t* codes = reinterpret_cast<uint8_t*>(memory_.get());
  uint8_t* scales = codes + code_bytes;
  std::atomic<bool> valid{true};
  const int64_t at_once = std::max<int64_t>(1, (1 << 18) / (tiles_.tiles * kTile * kPanel));
  const int64_t tasks = (tiles_.panels + at_once - 1) / at_once, width = tiles_.tiles * kTile;
  std::vector<uint8_t> room(static_cast<size_t>(tasks * width));  // for a row
  in_threads(tasks, threads, [&](int64_t task) {
    const int64_t end = std::min(tiles_.panels, (task + 1) * at_once);
    for (int64_t index = task * at_once; index < end; index++)
      if (!make_panel(index, codes + index * tiles_.panel_bytes(),
                      scales + index * tiles_.panel_scales(), room.data() + task * width))
        valid = false;
  });
  if (!valid) throw std::invalid_argument("codes or scales are not numbers (NaN)");
  codes_ = codes;
  scales_ = scales;
}

int64_t Matrix::nbytes() const {
  return tiles_.panels * (tiles_.panel_bytes() + tiles_.panel_scales());
}

int64_t Matrix::scratch_bytes() const {
  return codes_ ? 0 : tiles_.panel_bytes() + tiles_.panel_scales() + tiles_.tiles * kTile;
}

Panel Matrix::panel(int64_t index, uint8_t* scratch) const {
  if (codes_)
    return {codes_ + index * tiles_.panel_bytes(), scales_ + index * tiles_.panel_scales(), true};
  uint8_t* scales = scratch + tiles_.panel_bytes();
  const bool valid = make_panel(index, scratch, scales, scales + tiles_.panel_scales());
  return {scratch, scales, valid};
}

// `row` is room for the codes of one row. Says whether all codes and scales were numbers; those that
// are none count as zero.
bool Matrix::make_panel(int64_t index, uint8_t* codes, uint8_t* scales, uint8_t* row) const {
  bool valid = true;
  const int64_t blocks = (tiles_.cols + tiles_.block - 1) / tiles_.block;
  const int halves = kTile / tiles_.block;
  std::memset(scales, 0, size_t(tiles_.panel_scales()));
  std::memset(row + tiles_.cols, 0, size_t(tiles_.tiles * kTile - tiles_.cols));
  for (int r = 0; r < kPanel; r++) {
    const int64_t at = index * kPanel + r;
    if (at < tiles_.rows) {
      const uint8_t* packed = source_.codes + at * source_.row_bytes;
      spread_row(packed, source_.row_bytes, tiles_.cols, code_bits_ / planes_, row);
      if (planes_ == 2) {
        packed += tiles_.rows * source_.row_bytes;
        for (int64_t col = 0; col < tiles_.cols; col++)
          row[col] = uint8_t(row[col] << 4 | code_at(packed, col, 4));
      }
      if (!all_codes_valid_)
        for (int64_t col = 0; col < tiles_.cols; col++) valid = valid && valid_code_[row[col]];
      if (tiles_.bits == 8)
        for (int64_t col = 0; col < tiles_.cols; col++) row[col] = tile_code_[row[col]];
      const uint8_t* from = source_.scales + at * source_.row_scales;
      for (int64_t block = 0; block < blocks; block++) {
        valid = valid && valid_scale_[from[block]];
        scales[(block / halves * halves + block % halves) * kPanel + r] = from[block];
      }
    }
    for (int64_t tile = 0; tile < tiles_.tiles; tile++)
      place(row + tile * kTile, tiles_.bits, codes + tile * kLine * tiles_.bits, r);
  }
  return valid;
}

bool Matrix::row(int64_t index, float* values, uint8_t* scratch) const {
  const Panel from = panel(index / kPanel, scratch);
  const int r = int(index % kPanel), halves = kTile / tiles_.block;
  for (int64_t col = 0; col < tiles_.cols; col++) {
    const uint8_t* tile = from.codes + col / kTile * kLine * tiles_.bits;
    const int c = int(col % kTile), g = c / 4, byte = 4 * r + c % 4;
    int integer;
    if (tiles_.bits == 8) {
      integer = tile[g * kLine + byte];
    } else {
      int code = tile[g / 2 * kLine + byte] >> 4 * (g % 2) & 15;
      if (tiles_.bits == 5) code |= (tile[4 * kLine + byte] >> g & 1) << 4;
      if (tiles_.bits == 6) code |= (tile[(4 + g / 4) * kLine + byte] >> 2 * (g % 4) & 3) << 4;
      integer = tiles_.table[code];
    }
    const int64_t block = col / kTile * halves + c / tiles_.block;
    const float scale = scale_value(tiles_.scale, from.scales[block * kPanel + r]);
    values[col] = float(integer - 128) * (scale * tiles_.factor);
  }
  return from.valid;
}

}  // namespace strop
