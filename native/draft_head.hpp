// A small network that guesses the token after next from a model's state and the token that was chosen.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "buffers.hpp"
#include "engine.hpp"

namespace strop {

struct DraftWeights {
  MatrixPointer fuse;            // (hidden, 2 hidden): of the token's embedding and the state
  MatrixPointer gate, up, down;  // of an MLP
  MatrixPointer head;            // a row for each token that can be guessed
  std::vector<float> token_norm, state_norm, mlp_norm, final_norm;
};

// x = state + fuse [norm(embedding(token)); norm(state)], x += mlp(norm(x)), and from norm(x), which is
// the next state, the logits. Embeddings are the engine's, as are threads and its lock.
class DraftHead {
 public:
  // Throws std::invalid_argument where shapes do not fit together.
  DraftHead(std::shared_ptr<Engine> engine, DraftWeights weights);

  int64_t outputs() const { return weights_.head->tiles().rows; }
  int64_t hidden() const { return engine_->architecture().hidden; }
  void step(const EngineKernels& kernels, int32_t token, const float* state, float* logits,
            float* next);

 private:
  std::shared_ptr<Engine> engine_;
  DraftWeights weights_;
  int64_t inner_;  // of the MLP, padded
  Blocks of_fuse_, of_hidden_, of_inner_;
  std::shared_ptr<float> fused_, x_, normed_, out_, gate_, up_, gated_, logits_;
  std::shared_ptr<uint8_t> scratch_;
  int64_t scratch_size_;
};

}  // namespace strop
