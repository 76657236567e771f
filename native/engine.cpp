// See engine.hpp. All arithmetic is row by row, so a row gets the same bits whatever runs beside it.

#include "engine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "buffers.hpp"

namespace strop {
namespace {

constexpr int64_t kRowsAtOnce = 22 * kRowGroup;  // more are computed in parts

void demand(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace

void multiply(const EngineKernels& kernels, const Matrix& matrix, const float* x, int64_t rows,
              float* y) {
  const Tiles& tiles = matrix.tiles();
  const Blocks blocks(rows, tiles.cols);
  const auto padded = zeros<float>(tiles.tiles * kTile), out = zeros<float>(rows * kPanel);
  const auto widened = zeros<uint8_t>(tiles.tiles * kWidenedBytes);
  const auto streamed = zeros<uint8_t>(matrix.scratch_bytes());
  for (int64_t row = 0; row < rows; row++) {
    std::copy_n(x + row * tiles.cols, tiles.cols, padded.get());
    kernels.quantize(padded.get(), blocks.view, row);
  }
  for (int64_t index = 0; index < tiles.panels; index++) {
    const Panel panel = matrix.panel(index, streamed.get());
    if (!panel.valid) throw std::runtime_error(kNotNumbers);
    kernels.multiply(tiles, panel, blocks.view, widened.get(), out.get(), kPanel);
    const int64_t count = std::min<int64_t>(kPanel, tiles.rows - index * kPanel);
    for (int64_t row = 0; row < rows; row++)
      std::copy_n(out.get() + row * kPanel, count, y + row * tiles.rows + index * kPanel);
  }
}

bool multiply(Pool& pool, const EngineKernels& kernels, const std::vector<Product>& products,
              const Activations& a, int64_t stride, uint8_t* scratch, int64_t scratch_size) {
  int64_t panels = 0;
  for (const Product& product : products) panels += product.matrix->tiles().panels;
  const int64_t at_once = std::clamp<int64_t>(panels / (8 * pool.threads()), 1, 64);
  std::atomic<bool> valid{true};
  pool.run((panels + at_once - 1) / at_once, [&](int64_t task, int thread) {
    uint8_t* widened = scratch + thread * scratch_size;
    uint8_t* streamed = widened + a.tiles * kWidenedBytes;
    const int64_t end = std::min(panels, (task + 1) * at_once);
    size_t which = 0;
    int64_t before = 0;
    for (int64_t index = task * at_once; index < end; index++) {
      while (index - before >= products[which].matrix->tiles().panels)
        before += products[which++].matrix->tiles().panels;
      const Matrix& matrix = *products[which].matrix;
      const Panel panel = matrix.panel(index - before, streamed);
      if (!panel.valid) valid = false;
      kernels.multiply(matrix.tiles(), panel, a, widened,
                       products[which].out + (index - before) * kPanel, stride);
    }
  });
  return valid;
}

int64_t product_scratch(const Matrix& matrix) {
  return matrix.tiles().tiles * kWidenedBytes + matrix.scratch_bytes();
}

Engine::Engine(Architecture architecture, std::vector<Layer> layers, MatrixPointer embedding,
               MatrixPointer head, std::vector<float> final_norm, int threads)
    : architecture_(std::move(architecture)),
      layers_(std::move(layers)),
      embedding_(std::move(embedding)),
      head_(head ? std::move(head) : embedding_),
      final_norm_(std::move(final_norm)),
      pool_(std::clamp(threads, 1, 1024)) {
  const Architecture& a = architecture_;
  for (const int64_t size : {a.heads, a.kv_heads, a.head_dim})
    demand(size > 0 && size <= 1 << 24, "sizes are out of range");
  demand(a.heads % a.kv_heads == 0, "heads are not in groups");
  demand(a.context > 0 && a.context <= 1 << 30, "the context is out of range");
  demand(2 * int64_t(a.frequencies.size()) <= a.head_dim, "more is rotated than a head has");
  const auto shape = [](const char* name, const MatrixPointer& m, int64_t rows, int64_t cols) {
    demand(m && m->tiles().rows == rows && m->tiles().cols == cols,
           std::string(name) + " has not the shape that the architecture gives");
  };
  const auto length = [](const char* name, const std::vector<float>& v, int64_t size, bool needed) {
    demand(int64_t(v.size()) == size || (!needed && v.empty()),
           std::string(name) + " has not the length that the architecture gives");
  };
  const auto needs = [&](const MatrixPointer& m) {
    scratch_bytes_ = std::max(scratch_bytes_, product_scratch(*m));
  };
  shape("embedding", embedding_, a.vocabulary, a.hidden);
  shape("head", head_, a.vocabulary, a.hidden);
  needs(embedding_);
  needs(head_);
  length("final_norm", final_norm_, a.hidden, true);
  const int64_t queries = a.heads * a.head_dim, keys = a.kv_heads * a.head_dim;
  for (const Layer& layer : layers_) {
    shape("query", layer.query, queries, a.hidden);
    shape("key", layer.key, keys, a.hidden);
    shape("value", layer.value, keys, a.hidden);
    shape("output", layer.output, a.hidden, queries);
    shape("gate", layer.gate, a.intermediate, a.hidden);
    shape("up", layer.up, a.intermediate, a.hidden);
    shape("down", layer.down, a.hidden, a.intermediate);
    length("input_norm", layer.input_norm, a.hidden, true);
    length("mlp_norm", layer.mlp_norm, a.hidden, true);
    length("query_bias", layer.query_bias, queries, false);
    length("key_bias", layer.key_bias, keys, false);
    length("value_bias", layer.value_bias, keys, false);
    length("output_bias", layer.output_bias, a.hidden, false);
    length("query_norm", layer.query_norm, a.head_dim, false);
    length("key_norm", layer.key_norm, a.head_dim, false);
    for (const MatrixPointer& m : {layer.query, layer.key, layer.value, layer.output, layer.gate,
                                   layer.up, layer.down})
      needs(m);
  }
}

Engine::~Engine() = default;

void Engine::forward(const EngineKernels& kernels, const std::vector<Cache*>& caches,
                     const std::vector<Tokens>& tokens, int64_t last, float* logits, float* states) {
  const std::lock_guard<std::mutex> held(lock_);
  const PlainFloats plain;
  demand(caches.size() == tokens.size(), "as many sequences as lists of tokens");
  std::vector<Row> rows;
  std::vector<std::unique_lock<std::mutex>> caches_held;
  int64_t wanted = 0;
  for (size_t i = 0; i < caches.size(); i++) {
    demand(caches[i] && caches[i]->fits(*this), "a cache of another model");
    demand(std::count(caches.begin(), caches.end(), caches[i]) == 1, "a sequence appears twice");
  }
  std::vector<Cache*> sorted = caches;  // one order for all passes, so that none waits for ever
  std::sort(sorted.begin(), sorted.end());
  for (Cache* cache : sorted) caches_held.emplace_back(cache->lock_);
  for (size_t i = 0; i < caches.size(); i++) {
    const int64_t count = tokens[i].count, start = caches[i]->length();
    demand(count <= architecture_.context - start, "the context is full");
    for (int64_t t = 0; t < count; t++) {
      const int32_t token = tokens[i].ids[t];
      demand(token >= 0 && token < architecture_.vocabulary, "no such token");
      rows.push_back({caches[i], start + t, token, count - t <= last ? wanted++ : -1});
    }
  }
  kernels_ = &kernels;
  broken_ = false;
  for (size_t first = 0; first < rows.size(); first += kRowsAtOnce) {
    const auto from = rows.begin() + int64_t(first);
    run_rows({from, rows.end() - from > kRowsAtOnce ? from + kRowsAtOnce : rows.end()}, logits, states);
  }
  if (broken_) throw std::runtime_error(kNotNumbers);
  for (size_t i = 0; i < caches.size(); i++) caches[i]->length_ += tokens[i].count;
}

// Few rows are not worth waking the other threads for.
template <typename Work>
void Engine::over_rows(int64_t rows, const Work& work) {
  const int64_t at_once = std::max<int64_t>(2, rows / (4 * threads()));
  pool_.run((rows + at_once - 1) / at_once, [&](int64_t task, int thread) {
    const int64_t end = std::min(rows, (task + 1) * at_once);
    for (int64_t row = task * at_once; row < end; row++) work(row, thread);
  });
}

void Engine::multiply(const std::vector<Product>& products, const Activations& a, int64_t stride,
                      Buffers& b) {
  if (!strop::multiply(pool_, *kernels_, products, a, stride, b.scratch.get(), b.scratch_size))
    broken_ = true;
}

// Kept from pass to pass, and made anew when one needs more.
Engine::Buffers& Engine::buffers(int64_t rows, int64_t longest) {
  if (!buffers_ || buffers_->rows < rows || buffers_->longest < longest) {
    if (buffers_) {
      rows = std::max(rows, buffers_->rows);
      longest = std::max(longest + longest / 4, buffers_->longest);  // not at every token
    }
    buffers_.reset();
    buffers_ = std::make_unique<Buffers>(architecture_, rows, longest, threads(), scratch_bytes_);
  }
  return *buffers_;
}

void Engine::run_rows(const std::vector<Row>& rows, float* logits, float* states) {
  const Architecture& a = architecture_;
  const int64_t count = int64_t(rows.size()), pairs = int64_t(a.frequencies.size());
  int64_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, row.position + 1);
  Buffers& b = buffers(count, longest);
  b.use_rows(count);
  over_rows(count, [&](int64_t r, int thread) {
    uint8_t* scratch = b.scratch.get() + thread * b.scratch_size;
    if (!embedding_->row(rows[size_t(r)].token, b.x.get() + r * b.hidden, scratch)) broken_ = true;
    for (int64_t i = 0; i < pairs; i++) {
      const float angle = float(rows[size_t(r)].position) * a.frequencies[size_t(i)];
      b.cosines.get()[r * pairs + i] = float(std::cos(double(angle))) * a.rotary_scale;
      b.sines.get()[r * pairs + i] = float(std::sin(double(angle))) * a.rotary_scale;
    }
  });
  std::vector<Row> left = rows;
  for (int64_t layer = 0; layer < layers(); layer++) run_layer(layer, left, b);
  if (left.empty()) return;
  const int64_t results = int64_t(left.size());
  over_rows(results, [&](int64_t r, int) {
    float* y = b.normed.get() + r * b.hidden;
    kernels_->rms_norm(b.x.get() + r * b.hidden, final_norm_.data(), a.hidden, a.norm_epsilon, y);
    kernels_->quantize(y, b.of_hidden.view, r);
    std::copy_n(y, a.hidden, states + left[size_t(r)].logits * a.hidden);
  });
  float* to = logits + left[0].logits * a.vocabulary;  // one after another, as the rows
  const int64_t stride = round_up(a.vocabulary, kPanel);
  if (stride == a.vocabulary) {
    multiply({{head_.get(), to}}, b.of_hidden.view, stride, b);
    return;
  }
  const std::shared_ptr<float> padded = zeros<float>(results * stride);
  multiply({{head_.get(), padded.get()}}, b.of_hidden.view, stride, b);
  for (int64_t i = 0; i < results; i++)
    std::memcpy(to + i * a.vocabulary, padded.get() + i * stride, size_t(a.vocabulary) * sizeof(float));
}

// After the last keys and values, only rows whose logits are wanted go on.
void Engine::drop_unwanted(std::vector<Row>& rows, Buffers& b) {
  size_t kept = 0;
  for (size_t r = 0; r < rows.size(); r++) {
    if (rows[r].logits < 0) continue;
    if (kept < r) {
      std::copy_n(b.x.get() + int64_t(r) * b.hidden, b.hidden, b.x.get() + int64_t(kept) * b.hidden);
      std::copy_n(b.qkv_out.get() + int64_t(r) * b.qkv, b.qkv, b.qkv_out.get() + int64_t(kept) * b.qkv);
    }
    rows[kept++] = rows[r];
  }
  rows.resize(kept);
  b.use_rows(int64_t(kept));
}

void Engine::run_layer(int64_t index, std::vector<Row>& rows, Buffers& b) {
  const Architecture& a = architecture_;
  const Layer& layer = layers_[size_t(index)];
  int64_t count = int64_t(rows.size());
  over_rows(count, [&](int64_t r, int) {
    float* y = b.normed.get() + r * b.hidden;
    kernels_->rms_norm(b.x.get() + r * b.hidden, layer.input_norm.data(), a.hidden, a.norm_epsilon, y);
    kernels_->quantize(y, b.of_hidden.view, r);
  });
  float* qkv = b.qkv_out.get();
  multiply({{layer.query.get(), qkv}, {layer.key.get(), qkv + b.key_at}, {layer.value.get(), qkv + b.value_at}},
           b.of_hidden.view, b.qkv, b);
  over_rows(count, [&](int64_t r, int) { place_keys(index, rows, b, r); });
  if (index + 1 == layers()) {
    drop_unwanted(rows, b);
    count = int64_t(rows.size());
    if (count == 0) return;
  }
  attend(index, rows, b);
  over_rows(count, [&](int64_t r, int) {
    kernels_->quantize(b.attention.get() + r * b.attended, b.of_attention.view, r);
  });
  multiply({{layer.output.get(), b.out.get()}}, b.of_attention.view, b.hidden, b);
  over_rows(count, [&](int64_t r, int) {
    float* x = b.x.get() + r * b.hidden;
    float* y = b.normed.get() + r * b.hidden;
    kernels_->add(x, b.out.get() + r * b.hidden, a.hidden);
    kernels_->add(x, layer.output_bias.data(), int64_t(layer.output_bias.size()));
    kernels_->rms_norm(x, layer.mlp_norm.data(), a.hidden, a.norm_epsilon, y);
    kernels_->quantize(y, b.of_hidden.view, r);
  });
  multiply({{layer.gate.get(), b.gate.get()}, {layer.up.get(), b.up.get()}}, b.of_hidden.view, b.inner, b);
  over_rows(count, [&](int64_t r, int) {
    float* y = b.gated.get() + r * b.inner;
    kernels_->gate(b.gate.get() + r * b.inner, b.up.get() + r * b.inner,
                   round_up(a.intermediate, kPanel), y);
    std::fill(y + a.intermediate, y + b.inner, 0.0f);  // the rows that fill up a panel
    kernels_->quantize(y, b.of_inner.view, r);
  });
  multiply({{layer.down.get(), b.out.get()}}, b.of_inner.view, b.hidden, b);
  over_rows(count, [&](int64_t r, int) {
    kernels_->add(b.x.get() + r * b.hidden, b.out.get() + r * b.hidden, a.hidden);
  });
}

// Biases, norms and rotation of the queries and keys of a row; keys and values go to the cache.
void Engine::place_keys(int64_t index, const std::vector<Row>& rows, Buffers& b, int64_t r) {
  const Architecture& a = architecture_;
  const Layer& layer = layers_[size_t(index)];
  const int64_t pairs = int64_t(a.frequencies.size());
  const float* cosines = b.cosines.get() + r * pairs;
  const float* sines = b.sines.get() + r * pairs;
  float* query = b.qkv_out.get() + r * b.qkv;
  float* key = query + b.key_at;
  float* value = query + b.value_at;
  const auto add = [&](float* x, const std::vector<float>& bias) {
    kernels_->add(x, bias.data(), int64_t(bias.size()));
  };
  add(query, layer.query_bias);
  add(key, layer.key_bias);
  add(value, layer.value_bias);
  const auto prepare = [&](float* head, const std::vector<float>& norm) {
    if (!norm.empty()) kernels_->rms_norm(head, norm.data(), a.head_dim, a.norm_epsilon, head);
    if (layer.rotary) kernels_->rotate(head, cosines, sines, pairs);
  };
  for (int64_t h = 0; h < a.heads; h++) prepare(query + h * a.head_dim, layer.query_norm);
  const Row& row = rows[size_t(r)];
  for (int64_t h = 0; h < a.kv_heads; h++) {
    prepare(key + h * a.head_dim, layer.key_norm);
    kernels_->store(row.cache->format(), row.cache->head(index, h), row.position,
                    key + h * a.head_dim, value + h * a.head_dim);
  }
}

// Queries of a sequence that share a head of keys are worked on together, up to kQueries of them.
void Engine::attend(int64_t index, const std::vector<Row>& rows, Buffers& b) {
  const Architecture& a = architecture_;
  const int64_t count = int64_t(rows.size()), group = a.heads / a.kv_heads;
  const float factor = 1.0f / std::sqrt(float(a.head_dim));
  struct Unit { int64_t first, end, head, heads; };  // rows, query heads
  std::vector<Unit> units;
  const bool few = count * a.kv_heads < 4 * threads();  // then each head is a unit
  const int64_t heads = few ? 1 : std::min<int64_t>(group, kQueries);
  for (int64_t first = 0, end; first < count; first = end) {
    end = first + 1;
    while (end < count && rows[size_t(end)].cache == rows[size_t(first)].cache && (end - first + 1) * heads <= kQueries)
      end++;
    for (int64_t g = 0; g < a.kv_heads; g++)
      for (int64_t h = 0; h < group; h += heads)
        units.push_back({first, end, g * group + h, std::min(heads, group - h)});
  }
  const int64_t window = layers_[size_t(index)].window;
  pool_.run(int64_t(units.size()), [&](int64_t task, int thread) {
    const Unit& unit = units[size_t(task)];
    const Cache& cache = *rows[size_t(unit.first)].cache;
    Query queries[kQueries];
    int n = 0;
    for (int64_t r = unit.first; r < unit.end; r++)
      for (int64_t h = unit.head; h < unit.head + unit.heads; h++) {
        const int64_t last = rows[size_t(r)].position;
        queries[n++] = {b.qkv_out.get() + r * b.qkv + h * a.head_dim,
                        b.attention.get() + r * b.attended + h * a.head_dim,
                        window ? std::max<int64_t>(0, last - window + 1) : 0, last};
      }
    kernels_->attend(cache.format(), cache.head(index, unit.head / group), queries, n, factor,
                     b.scores.get() + thread * b.scores_size, b.scores_stride);
  });
}

}  // namespace strop
