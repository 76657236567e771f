// A decoder-only transformer over packed matrices.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cache.hpp"
#include "engine_kernels.hpp"
#include "threads.hpp"
#include "tiles.hpp"

namespace strop {

using MatrixPointer = std::shared_ptr<const Matrix>;

inline const char* const kNotNumbers = "the packed weights hold codes or scales that are not numbers";

struct Layer {
  MatrixPointer query, key, value, output, gate, up, down;
  std::vector<float> input_norm, mlp_norm;
  std::vector<float> query_bias, key_bias, value_bias, output_bias;  // empty: none
  std::vector<float> query_norm, key_norm;                           // empty: none
  int64_t window;  // positions that a query sees, its own included; 0: all
  bool rotary;     // whether queries and keys are rotated by their position
};

struct Architecture {
  int64_t hidden, heads, kv_heads, head_dim, intermediate, vocabulary, context;
  float norm_epsilon;
  std::vector<float> frequencies;  // angle per position of each rotated pair of dimensions
  float rotary_scale;              // of sine and cosine

  bool operator==(const Architecture&) const = default;
};

// y = x * matrix^T for rows of numbers, which are quantized on the way; by one thread. Throws
// std::runtime_error where codes or scales are no numbers.
void multiply(const EngineKernels& kernels, const Matrix& matrix, const float* x, int64_t rows,
              float* y);

struct Tokens {
  const int32_t* ids;
  int64_t count;
};

struct Product {
  const Matrix* matrix;
  float* out;
};

// Products of the same activations by all threads: out[row * stride + r]. `scratch` has room for
// scratch_size bytes for each thread. Says whether all codes and scales were numbers.
bool multiply(Pool& pool, const EngineKernels& kernels, const std::vector<Product>& products,
              const Activations& a, int64_t stride, uint8_t* scratch, int64_t scratch_size);
int64_t product_scratch(const Matrix& matrix);  // bytes that a thread needs for it

class Engine {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  Engine(Architecture architecture, std::vector<Layer> layers, MatrixPointer embedding,
         MatrixPointer head, std::vector<float> final_norm, int threads);
  ~Engine();

  // Appends tokens to sequences and writes the logits of the last `last` tokens of each, or of all
  // where there are fewer: rows of `vocabulary` numbers. `states` gets what the head multiplied, rows of
  // `hidden` numbers. Caches grow once all is computed.
  void forward(const EngineKernels& kernels, const std::vector<Cache*>& caches,
               const std::vector<Tokens>& tokens, int64_t last, float* logits, float* states);

  const Architecture& architecture() const { return architecture_; }
  int64_t layers() const { return int64_t(layers_.size()); }
  int threads() const { return pool_.threads(); }

 private:
  friend class DraftHead;
  struct Row {  // one token
    const Cache* cache;
    int64_t position;
    int32_t token;
    int64_t logits;  // row of the logits, or -1
  };
  struct Buffers;

  Buffers& buffers(int64_t rows, int64_t longest);
  void run_rows(const std::vector<Row>& rows, float* logits, float* states);
  void run_layer(int64_t index, std::vector<Row>& rows, Buffers& b);
  void drop_unwanted(std::vector<Row>& rows, Buffers& b);
  void attend(int64_t layer, const std::vector<Row>& rows, Buffers& b);
  void place_keys(int64_t layer, const std::vector<Row>& rows, Buffers& b, int64_t row);
  void multiply(const std::vector<Product>& products, const Activations& a, int64_t stride,
                Buffers& b);
  template <typename Work>
  void over_rows(int64_t rows, const Work& work);

  Architecture architecture_;
  std::vector<Layer> layers_;
  MatrixPointer embedding_, head_;
  std::vector<float> final_norm_;
  int64_t scratch_bytes_ = 0;  // of a thread
  std::unique_ptr<Buffers> buffers_;
  Pool pool_;
  std::mutex lock_;  // one pass at a time
  const EngineKernels* kernels_ = nullptr;
  std::atomic<bool> broken_{false};  // a panel held what is no number
};

}  // namespace strop
