// The engine's arithmetic. Compiled once per instruction set, into the namespace that STROP_ISA
// names.

#include "engine_kernels.hpp"

#include <utility>

#include "attention.hpp"
#include "floats.hpp"
#include "simd.hpp"

namespace strop {
namespace {

// ---- Activations become blocks of integers -----------------------------------------------------

void quantize(const float* x, int64_t, const Activations& to, int64_t row) {
  for (int64_t tile = 0; tile < to.tiles; tile++) {
    int8_t* codes = to.codes + (row * to.tiles + tile) * kTile;
    int32_t* offsets = to.offsets + (row * to.tiles + tile) * 3;
    to.scales[row * to.tiles + tile] = quantize_32(x + tile * kTile, codes, offsets);
    for (int half = 0; half < 2; half++) offsets[half] *= -128;
    offsets[2] = offsets[0] + offsets[1];
  }
}

// ---- Products ----------------------------------------------------------------------------------

template <int Bits, int First, int R, int... G>
INLINE void add_groups(Sums (&sums)[R], const uint8_t* tile, const Table& entries,
                       const int8_t* x, int64_t row_codes, std::integer_sequence<int, G...>) {
  const auto add = [&](const Line& integers, int g) __attribute__((always_inline)) {
    for (int r = 0; r < R; r++) sums[r] = dot(sums[r], integers, x + r * row_codes + 4 * g);
  };
  (add(lookup<Bits, First + G>(tile, entries), First + G), ...);
}

// Sums of R rows over one block of a tile, and their place in the total.
template <int Bits, int Block, int Half, int R>
INLINE void add_block(Wide (&total)[R], const Tiles& w, const Panel& panel, const Table& entries,
                      const Activations& a, int64_t row, int64_t tile, int part) {
  constexpr int kHalves = kTile / Block;
  Sums sums[R];
  for (int r = 0; r < R; r++)
    sums[r] = start(a.offsets[((row + r) * a.tiles + tile) * 3 + (kHalves == 2 ? Half : 2)]);
  add_groups<Bits, Half * Block / 4, R>(
      sums, panel.codes + tile * kLine * Bits + part * kWidth * 4, entries,
      a.codes + (row * a.tiles + tile) * kTile, a.tiles * kTile,
      std::make_integer_sequence<int, Block / 4>());
  const Wide scale = scales(w, panel.scales + (tile * kHalves + Half) * kPanel + part * kWidth);
  for (int r = 0; r < R; r++)
    total[r] = fused(to_float(sums[r]), times(scale, a.scales[(row + r) * a.tiles + tile]), total[r]);
}

template <int Bits, int Block, int R>
void multiply_rows(const Tiles& w, const Panel& panel, const Activations& a, int64_t row,
                   float* out, int64_t stride) {
  const Table entries = table(w.table);
  for (int part = 0; part < kParts; part++) {
    Wide total[R];
    for (int r = 0; r < R; r++) total[r] = zero();
    for (int64_t tile = 0; tile < a.tiles; tile++) {
      add_block<Bits, Block, 0, R>(total, w, panel, entries, a, row, tile, part);
      if constexpr (Block == 16)
        add_block<Bits, Block, 1, R>(total, w, panel, entries, a, row, tile, part);
    }
    for (int r = 0; r < R; r++)
      put(out + (row + r) * stride + part * kWidth, times(total[r], w.factor));
  }
}

using MultiplyRows = void (*)(const Tiles&, const Panel&, const Activations&, int64_t, float*,
                              int64_t);

// At most as many rows at a time as there are registers for.
#if defined(__AVX512VNNI__) && !defined(STROP_YMM)
constexpr int kMostRows = 12;
#elif defined(__AVX2__)
constexpr int kMostRows = 4;
#else
constexpr int kMostRows = 1;
#endif

template <int Bits, int Block, int... R>
MultiplyRows rows_kernel(int rows, std::integer_sequence<int, R...>) {
  static constexpr MultiplyRows kernels[] = {multiply_rows<Bits, Block, R + 1>...};
  return kernels[rows - 1];
}

template <int Bits>
MultiplyRows kernel(const Tiles& w, int rows) {
  constexpr auto counts = std::make_integer_sequence<int, kMostRows>();
  return w.block == 16 ? rows_kernel<Bits, 16>(rows, counts) : rows_kernel<Bits, 32>(rows, counts);
}

MultiplyRows kernel(const Tiles& w, int rows) {
  switch (w.bits) {
    case 4: return kernel<4>(w, rows);
    case 5: return kernel<5>(w, rows);
    case 6: return kernel<6>(w, rows);
    default: return kernel<8>(w, rows);
  }
}

template <int Bits, int... G>
void widen_tile(const uint8_t* tile, const Table& entries, uint8_t* out, int part,
                std::integer_sequence<int, G...>) {
  const auto store = [&](const Line& integers, int g) {
    std::memcpy(out + g * kLine + part * kWidth * 4, &integers, kWidth * 4);
  };
  (store(lookup<Bits, G>(tile + part * kWidth * 4, entries), G), ...);
}

template <int Bits>
void widen(const Tiles& w, const uint8_t* codes, uint8_t* out) {
  const Table entries = table(w.table);
  for (int64_t tile = 0; tile < w.tiles; tile++)
    for (int part = 0; part < kParts; part++)
      widen_tile<Bits>(codes + tile * kLine * Bits, entries, out + tile * kLine * 8, part,
                       std::make_integer_sequence<int, 8>());
}

// With many rows it pays to look the integers of a panel up only once.
constexpr int64_t kManyRows = 2 * kMostRows + 1;

void multiply(const Tiles& tiles, Panel panel, const Activations& a, int64_t rows, uint8_t* scratch,
              float* out, int64_t stride) {
  if (rows < kManyRows || tiles.bits == 8) {
    for (int64_t row = 0; row < rows;) {
      const int count = int(rows - row < kMostRows ? rows - row : kMostRows);
      kernel(tiles, count)(tiles, panel, a, row, out, stride);
      row += count;
    }
    return;
  }
  if (tiles.bits == 4) widen<4>(tiles, panel.codes, scratch);
  else if (tiles.bits == 5) widen<5>(tiles, panel.codes, scratch);
  else widen<6>(tiles, panel.codes, scratch);
  Tiles wide = tiles;
  wide.bits = 8;
  multiply(wide, {scratch, panel.scales, true}, a, rows, nullptr, out, stride);
}

}  // namespace

namespace STROP_ISA {
extern const EngineKernels engine_kernels = {quantize, multiply, rms_norm, gate, store, attend};
}

}  // namespace strop
