// The memory that a pass works in.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "engine.hpp"

namespace strop {

// Zeroed, aligned memory.
template <typename T>
std::shared_ptr<T> zeros(int64_t count) {
  const size_t bytes = size_t(round_up(count * int64_t(sizeof(T)), kLine));
  void* memory = std::aligned_alloc(kLine, bytes ? bytes : kLine);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return {static_cast<T*>(memory), [](T* at) { std::free(at); }};
}

struct Blocks {  // owns Activations
  std::shared_ptr<int8_t> codes;
  std::shared_ptr<float> scales;
  std::shared_ptr<int32_t> offsets;
  Activations view;

  Blocks(int64_t rows, int64_t cols) {
    const int64_t tiles = round_up(cols, kTile) / kTile;
    codes = zeros<int8_t>(rows * tiles * kTile);
    scales = zeros<float>(rows * tiles);
    offsets = zeros<int32_t>(rows * tiles * 3);
    view = {rows, tiles, codes.get(), scales.get(), offsets.get()};
  }
};

// What a pass works in, for so many rows and positions. What is zero beyond the end of a row stays so.
struct Engine::Buffers {
  int64_t rows, longest;
  int64_t hidden, qkv, attended, inner, scores_stride;  // numbers in a row
  int64_t key_at, value_at;                             // of qkv
  std::shared_ptr<float> x, normed, qkv_out, attention, out, gate, up, gated, cosines, sines, scores;
  std::shared_ptr<uint8_t> scratch;
  int64_t scratch_size, scores_size;
  Blocks of_hidden, of_attention, of_inner;

  Buffers(const Architecture& a, int64_t rows, int64_t longest, int threads, int64_t scratch_bytes)
      : rows(rows),
        longest(longest),
        hidden(round_up(a.hidden, kTile)),
        attended(round_up(a.heads * a.head_dim, kTile)),
        inner(round_up(a.intermediate, kTile)),
        scores_stride(round_up(longest, kKeysPad) + kKeysPad),
        of_hidden(rows, a.hidden),
        of_attention(rows, a.heads * a.head_dim),
        of_inner(rows, a.intermediate) {
    key_at = round_up(a.heads * a.head_dim, kPanel);
    value_at = key_at + round_up(a.kv_heads * a.head_dim, kPanel);
    qkv = value_at + round_up(a.kv_heads * a.head_dim, kPanel);
    x = zeros<float>(rows * hidden);
    normed = zeros<float>(rows * hidden);
    out = zeros<float>(rows * hidden);
    qkv_out = zeros<float>(rows * qkv);
    attention = zeros<float>(rows * attended);
    gate = zeros<float>(rows * inner);
    up = zeros<float>(rows * inner);
    gated = zeros<float>(rows * inner);
    cosines = zeros<float>(rows * int64_t(a.frequencies.size()));
    sines = zeros<float>(rows * int64_t(a.frequencies.size()));
    scores_size = kQueries * scores_stride;
    scores = zeros<float>(threads * scores_size);
    scratch_size = round_up(scratch_bytes, kLine);
    scratch = zeros<uint8_t>(threads * scratch_size);
  }

  void use_rows(int64_t count) {
    for (Blocks* of : {&of_hidden, &of_attention, &of_inner}) of->view.rows = count;
  }
};

}  // namespace strop
