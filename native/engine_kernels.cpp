// The engine's arithmetic. Compiled once per instruction set, into the namespace that
// STROP_KERNELS names.

#include "engine_kernels.hpp"

#include <utility>

#include "attention.hpp"
#include "floats.hpp"
#include "simd.hpp"

namespace strop {
namespace {

// ---- Activations become blocks of integers -----------------------------------------------------

void quantize(const float* x, const Activations& to, int64_t row) {
  int64_t block = to.first(row);
  for (int64_t tile = 0; tile < to.tiles; tile++, block += to.step(row)) {
    int32_t* offsets = to.offsets + block * 3;
    to.scales[block] = quantize_32(x + tile * kTile, to.codes + block * kTile, offsets);
    for (int half = 0; half < 2; half++) offsets[half] *= -128;
    offsets[2] = offsets[0] + offsets[1];
  }
}

// ---- Products ----------------------------------------------------------------------------------

template <int Bits, int First, int R, int... G>
INLINE void add_groups(Sums (&sums)[R], const uint8_t* tile, const Table& entries,
                       const int8_t* x, std::integer_sequence<int, G...>) {
  const auto add = [&](const Factors& weights, int g) __attribute__((always_inline)) {
    for (int r = 0; r < R; r++) sums[r] = dot(sums[r], weights, x + r * kTile + 4 * g);
  };
  (add(factors<Bits, First + G>(tile, entries), First + G), ...);
}

// Sums of R rows over one block of a tile, and their place in the total. `codes` is the tile,
// `at` the block of the first row.
template <int Bits, int Block, int Half, int R>
INLINE void add_block(Wide (&total)[R], const Tiles& w, const uint8_t* codes, const uint8_t* scale,
                      const Table& entries, const Activations& a, int64_t at) {
  Sums sums[R];
  for (int r = 0; r < R; r++)
    sums[r] = start(a.offsets[(at + r) * 3 + (Block == 16 ? Half : 2)]);
  add_groups<Bits, Half * Block / 4, R>(sums, codes, entries, a.codes + at * kTile,
                                        std::make_integer_sequence<int, Block / 4>());
  const Wide weight = scales(w, scale + Half * kPanel);
  for (int r = 0; r < R; r++)
    total[r] = fused(to_float(sums[r]), times(weight, a.scales[at + r]), total[r]);
}

// One row uses the bytes of a matrix faster than they come by themselves; 10 kB ahead is far enough,
// and nearer is too near at 8 bits.
constexpr int64_t kAhead = 160 * kLine;

template <int Bits, int Block, int R>
void multiply_rows(const Tiles& w, const Panel& panel, const Activations& a, int64_t row,
                   float* out, int64_t stride) {
  const Table entries = table(w.table);
  const int64_t step = a.step(row);
  const uint8_t *codes = panel.codes, *scale = panel.scales;
  int64_t at = a.first(row);
  Wide total[R];
  for (int r = 0; r < R; r++) total[r] = zero();
  for (int64_t tile = 0; tile < a.tiles; tile++) {
    for (int i = 0; i < Bits; i++) __builtin_prefetch(codes + kAhead + i * kLine);
    add_block<Bits, Block, 0, R>(total, w, codes, scale, entries, a, at);
    if constexpr (Block == 16)
      add_block<Bits, Block, 1, R>(total, w, codes, scale, entries, a, at);
    codes += kLine * Bits;
    scale += kPanel * (kTile / Block);
    at += step;
  }
  for (int r = 0; r < R; r++) put(out + (row + r) * stride, times(total[r], w.factor));
}

using MultiplyRows = void (*)(const Tiles&, const Panel&, const Activations&, int64_t, float*,
                              int64_t);

// At most as many rows at a time as there are registers for, at least for the sums of a block.
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
constexpr int kMostRows = kRowGroup;
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

MultiplyRows kernel(const Tiles& w, int bits, int rows) {
  switch (bits) {
    case 4: return kernel<4>(w, rows);
    case 5: return kernel<5>(w, rows);
    case 6: return kernel<6>(w, rows);
    case 8: return kernel<8>(w, rows);
    default: return kernel<kWidened>(w, rows);
  }
}

template <int Bits, int... G>
void widen_tiles(const Tiles& w, const uint8_t* codes, uint8_t* out, std::integer_sequence<int, G...>) {
  const Table entries = table(w.table);
  for (int64_t tile = 0; tile < w.tiles; tile++, codes += kLine * Bits, out += kLine * kWidened)
    (widen<G>(factors<Bits, G>(codes, entries), out), ...);
}

template <int Bits>
void widen_panel(const Tiles& w, const uint8_t* codes, uint8_t* out) {
  widen_tiles<Bits>(w, codes, out, std::make_integer_sequence<int, 8>());
}

// With many rows it pays to look the integers of a panel up only once; later where that makes a tile
// twice as large.
constexpr int64_t kManyRows = kWidened > 8 ? 2 * kRowGroup + 1 : 2 * kMostRows + 1;
static_assert(kWidened * kLine <= kWidenedBytes);

void multiply(const Tiles& tiles, Panel panel, const Activations& a, uint8_t* scratch, float* out,
              int64_t stride) {
  int bits = tiles.bits;
  if (a.rows >= kManyRows && bits < kWidened) {
    if (bits == 4) widen_panel<4>(tiles, panel.codes, scratch);
    else if (bits == 5) widen_panel<5>(tiles, panel.codes, scratch);
    else if (bits == 6) widen_panel<6>(tiles, panel.codes, scratch);
    else widen_panel<8>(tiles, panel.codes, scratch);
    bits = kWidened;
    panel.codes = scratch;
  }
  for (int64_t row = 0; row < a.rows;) {
    const int64_t rest = a.step(row) - row % kRowGroup;  // of the group
    const int count = int(rest < kMostRows ? rest : kMostRows);
    kernel(tiles, bits, count)(tiles, panel, a, row, out, stride);
    row += count;
  }
}

}  // namespace

namespace STROP_KERNELS {
extern const EngineKernels engine_kernels = {quantize, multiply, rms_norm, add,
                                              rotate,   gate,     store,    attend};
}

}  // namespace strop
