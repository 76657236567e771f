// The keys and values of a sequence.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "engine_kernels.hpp"

namespace strop {

class Engine;

// Keys and values of one sequence, in memory for the whole context that is taken as it fills.
class Cache {
 public:
  Cache(std::shared_ptr<Engine> engine, CacheFormat format);

  int64_t length() const { return length_; }
  int64_t nbytes() const;         // of the positions in use
  void truncate(int64_t length);  // waits for the end of a pass
  std::shared_ptr<Cache> fork();  // another with the same tokens; waits too
  CacheFormat format() const { return format_; }
  Head head(int64_t layer, int64_t head) const;
  // Whether an engine can work on it: its own, or one of the same shape, as with weights of less precision.
  bool fits(const Engine& engine) const;

 private:
  friend class Engine;
  std::shared_ptr<Engine> engine_;
  CacheFormat format_;
  int64_t capacity_;  // positions that there is room for
  std::atomic<int64_t> length_ = 0;
  std::mutex lock_;  // one pass at a time, whichever engine makes it
  int64_t key_bytes_, value_bytes_, scale_bytes_, head_bytes_;
  std::shared_ptr<uint8_t> memory_;
};

}  // namespace strop
