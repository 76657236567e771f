// See cache.hpp.

#include "cache.hpp"

#include <sys/mman.h>

#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include "engine.hpp"

namespace strop {

Cache::Cache(std::shared_ptr<Engine> engine, CacheFormat format)
    : engine_(std::move(engine)), format_(format) {
  const Architecture& a = engine_->architecture();
  const int64_t capacity = capacity_ = round_up(a.context, kKeysPad);
  const int64_t size = format == CacheFormat::fp16 ? 2 : 1;
  const int64_t blocks = round_up(a.head_dim, kTile) / kTile;
  key_bytes_ = round_up(capacity * a.head_dim * size, kLine);
  value_bytes_ = round_up(capacity * round_up(a.head_dim, kPanel) * size, kLine);
  scale_bytes_ = format == CacheFormat::fp16 ? 0 : capacity * blocks * int64_t(sizeof(float));
  head_bytes_ = key_bytes_ + value_bytes_ + 2 * scale_bytes_;
  const size_t bytes = size_t(head_bytes_ * a.kv_heads * engine_->layers());
  void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  madvise(start, bytes, MADV_NOHUGEPAGE);  // each head fills from its start, a position at a time
  memory_ = {static_cast<uint8_t*>(start), [bytes](uint8_t* at) { munmap(at, bytes); }};
}

bool Cache::fits(const Engine& engine) const {
  return engine_->architecture() == engine.architecture() && engine_->layers() == engine.layers();
}

int64_t Cache::nbytes() const {
  const Architecture& a = engine_->architecture();
  return head_bytes_ / capacity_ * length_ * a.kv_heads * engine_->layers();
}

void Cache::truncate(int64_t length) {
  const std::lock_guard<std::mutex> held(lock_);
  if (length < 0 || length > length_)
    throw std::invalid_argument("cannot roll back " + std::to_string(length_.load()) + " tokens to " +
                                std::to_string(length));
  length_ = length;
}

std::shared_ptr<Cache> Cache::fork() {
  auto other = std::make_shared<Cache>(engine_, format_);
  const std::lock_guard<std::mutex> held(lock_);
  const int64_t used = round_up(length_, kKeys);  // whole tiles of keys
  for (int64_t layer = 0; layer < engine_->layers(); layer++) {
    for (int64_t index = 0; index < engine_->architecture().kv_heads; index++) {
      const Head from = head(layer, index), to = other->head(layer, index);
      std::memcpy(to.keys, from.keys, size_t(key_bytes_ / capacity_ * used));
      std::memcpy(to.values, from.values, size_t(value_bytes_ / capacity_ * used));
      std::memcpy(to.key_scales, from.key_scales, size_t(scale_bytes_ / capacity_ * used));
      std::memcpy(to.value_scales, from.value_scales, size_t(scale_bytes_ / capacity_ * used));
    }
  }
  other->length_ = length_.load();
  return other;
}

Head Cache::head(int64_t layer, int64_t index) const {
  const Architecture& a = engine_->architecture();
  uint8_t* keys = memory_.get() + (layer * a.kv_heads + index) * head_bytes_;
  uint8_t* values = keys + key_bytes_;
  auto* scales = reinterpret_cast<float*>(values + value_bytes_);
  return {keys, values, scales, scales + scale_bytes_ / int64_t(sizeof(float)), a.head_dim,
          round_up(a.head_dim, kPanel), round_up(a.head_dim, kTile) / kTile};
}

}  // namespace strop
