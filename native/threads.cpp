// See threads.hpp.

#include "threads.hpp"

#include <unistd.h>

#include <chrono>

namespace strop {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Look for a change of `value` for a while, then sleep until there is one.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto until = Clock::now() + kPatience;
  do {
    for (int i = 0; i < 64; i++) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (Clock::now() < until);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int threads) : next_(size_t(threads)), process_(getpid()) {
  workers_.reserve(size_t(threads));
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back(&Pool::serve, this, i);
  } catch (const std::system_error&) {
  }
}

Pool::~Pool() {
  if (getpid() != process_) {  // a fork took no workers with it, so there are none to wait for
    new std::vector<std::thread>(std::move(workers_));
    return;
  }
  closing_.store(true, std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

// Takes one task of a run and does it; false when there is none left.
bool Pool::take(uint32_t job, int run, int thread) {
  const uint64_t tasks = tasks_.load(std::memory_order_acquire);
  const Call call = call_.load(std::memory_order_acquire);
  const void* work = work_.load(std::memory_order_acquire);
  const uint64_t end = tasks * uint64_t(run + 1) / next_.size();
  std::atomic<uint64_t>& task = next_[size_t(run)].task;
  uint64_t next = task.load(std::memory_order_acquire);
  do {
    if (uint32_t(next >> 32) != job || uint32_t(next) >= end) return false;
  } while (!task.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel));
  call(work, int64_t(uint32_t(next)), thread);
  if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == tasks) done_.notify_one();
  return true;
}

void Pool::work_on(uint32_t job, int thread) {
  const int runs = threads();
  for (int i = 0; i < runs; i++)
    while (take(job, (thread + i) % runs, thread)) {
    }
}

void Pool::serve(int thread) {
  const PlainFloats plain;
  uint32_t seen = 0;
  for (;;) {
    wait_while(job_, seen);
    seen = job_.load(std::memory_order_acquire);
    if (closing_.load(std::memory_order_relaxed)) return;
    work_on(seen, thread);
  }
}

void Pool::run_job(int64_t tasks, Call call, const void* work) {
  const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
  // While the fields change, no run has tasks: a worker that comes late takes nothing.
  for (Next& next : next_)
    next.task.store(uint64_t(job - 1) << 32 | UINT32_MAX, std::memory_order_seq_cst);
  tasks_.store(uint32_t(tasks), std::memory_order_release);
  call_.store(call, std::memory_order_release);
  work_.store(work, std::memory_order_release);
  done_.store(0, std::memory_order_release);
  for (size_t run = 0; run < next_.size(); run++)
    next_[run].task.store(uint64_t(job) << 32 | uint64_t(tasks) * run / next_.size(),
                          std::memory_order_release);
  job_.exchange(job, std::memory_order_seq_cst);  // before the look for sleepers
  job_.notify_all();
  work_on(job, 0);
  for (uint32_t done; (done = done_.load(std::memory_order_acquire)) != uint32_t(tasks);)
    wait_while(done_, done);
}

}  // namespace strop
