// See draft_head.hpp.

#include "draft_head.hpp"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>

namespace strop {

DraftHead::DraftHead(std::shared_ptr<Engine> engine, DraftWeights weights)
    : engine_(std::move(engine)),
      weights_(std::move(weights)),
      inner_(round_up(weights_.gate->tiles().rows, kTile)),
      of_fuse_(1, 2 * hidden()),
      of_hidden_(1, hidden()),
      of_inner_(1, weights_.gate->tiles().rows),
      scratch_size_(engine_->scratch_bytes_) {  // enough to read an embedding
  const DraftWeights& w = weights_;
  const auto shape = [](const char* name, const MatrixPointer& m, int64_t rows, int64_t cols) {
    if (m->tiles().rows != rows || m->tiles().cols != cols)
      throw std::invalid_argument(std::string(name) + " has not the shape that the model gives");
  };
  const int64_t inner = w.gate->tiles().rows;
  shape("fuse", w.fuse, hidden(), 2 * hidden());
  shape("gate", w.gate, inner, hidden());
  shape("up", w.up, inner, hidden());
  shape("down", w.down, hidden(), inner);
  shape("head", w.head, outputs(), hidden());
  for (const auto* norm : {&w.token_norm, &w.state_norm, &w.mlp_norm, &w.final_norm})
    if (int64_t(norm->size()) != hidden())
      throw std::invalid_argument("a norm has not the length that the model gives");
  for (const MatrixPointer& m : {w.fuse, w.gate, w.up, w.down, w.head})
    scratch_size_ = std::max(scratch_size_, product_scratch(*m));
  scratch_size_ = round_up(scratch_size_, kLine);
  scratch_ = zeros<uint8_t>(engine_->threads() * scratch_size_);
  fused_ = zeros<float>(round_up(2 * hidden(), kTile));
  for (auto* of_width : {&x_, &normed_, &out_}) *of_width = zeros<float>(round_up(hidden(), kTile));
  for (auto* of_inner : {&gate_, &up_, &gated_}) *of_inner = zeros<float>(inner_);
  logits_ = zeros<float>(round_up(outputs(), kPanel));
}

void DraftHead::step(const EngineKernels& kernels, int32_t token, const float* state, float* logits,
                     float* next) {
  const std::lock_guard<std::mutex> held(engine_->lock_);
  const PlainFloats plain;
  const Architecture& a = engine_->architecture();
  if (token < 0 || token >= a.vocabulary) throw std::invalid_argument("no such token");
  const DraftWeights& w = weights_;
  bool valid = true;
  const auto norm = [&](const float* x, const std::vector<float>& weight, float* y) {
    kernels.rms_norm(x, weight.data(), a.hidden, a.norm_epsilon, y);
  };
  const auto products = [&](const std::vector<Product>& of, const Blocks& blocks) {
    valid &= multiply(engine_->pool_, kernels, of, blocks.view, 0, scratch_.get(), scratch_size_);
  };
  valid &= engine_->embedding_->row(token, x_.get(), scratch_.get());
  norm(x_.get(), w.token_norm, fused_.get());
  norm(state, w.state_norm, fused_.get() + a.hidden);
  kernels.quantize(fused_.get(), of_fuse_.view, 0);
  products({{w.fuse.get(), x_.get()}}, of_fuse_);
  kernels.add(x_.get(), state, a.hidden);
  norm(x_.get(), w.mlp_norm, normed_.get());
  kernels.quantize(normed_.get(), of_hidden_.view, 0);
  products({{w.gate.get(), gate_.get()}, {w.up.get(), up_.get()}}, of_hidden_);
  const int64_t inner = w.gate->tiles().rows;
  kernels.gate(gate_.get(), up_.get(), round_up(inner, kPanel), gated_.get());
  std::fill(gated_.get() + inner, gated_.get() + inner_, 0.0f);  // the rows that fill up a panel
  kernels.quantize(gated_.get(), of_inner_.view, 0);
  products({{w.down.get(), out_.get()}}, of_inner_);
  kernels.add(x_.get(), out_.get(), a.hidden);
  norm(x_.get(), w.final_norm, normed_.get());
  kernels.quantize(normed_.get(), of_hidden_.view, 0);
  products({{w.head.get(), logits_.get()}}, of_hidden_);
  if (!valid) throw std::runtime_error(kNotNumbers);
  std::copy_n(logits_.get(), outputs(), logits);
  std::copy_n(normed_.get(), a.hidden, next);
}

}  // namespace strop
