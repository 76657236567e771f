// A pool of threads for many short jobs.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cfenv>
#include <cstdint>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

namespace strop {

// While it lives, floats follow IEEE 754 in this thread, subnormal ones included, whatever the program
// has chosen otherwise.
class PlainFloats {
 public:
  PlainFloats() { std::fegetenv(&before_), std::fesetenv(FE_DFL_ENV); }
  ~PlainFloats() { std::fesetenv(&before_); }
  PlainFloats(const PlainFloats&) = delete;

 private:
  std::fenv_t before_;
};

// Calls work(task) for each task, on up to so many threads that live for this call; on fewer if no
// more can be started. Tasks must not throw.
template <typename Work>
void in_threads(int64_t tasks, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto serve = [&] {
    const PlainFloats plain;
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) work(task);
  };
  std::vector<std::jthread> others;
  try {
    for (int64_t i = 1; i < threads && i < tasks; i++) others.emplace_back(serve);
  } catch (const std::system_error&) {
  }
  serve();
}

// A job is a number of tasks. Each thread has a run of them, which it takes one by one and in order,
// so that what it reads lies together; then it takes those that others have left. The caller waits
// for tasks that were begun, never for a worker to wake: one that sleeps, or has lost its processor
// to another process, delays nothing. Between jobs, workers look for the next one for some tens of
// microseconds and then sleep.
class Pool {
 public:
  // The caller's included; where the system gives no more, there are fewer, and each does more.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;

  int threads() const { return int(next_.size()); }

  // Calls work(task, thread) for each task; thread is below threads(). One caller at a time. Tasks
  // must not throw. After a fork, the child has the caller's thread only, which does everything.
  template <typename Work>
  void run(int64_t tasks, const Work& work) {
    if (workers_.empty() || tasks == 1) {
      for (int64_t task = 0; task < tasks; task++) work(task, 0);
      return;
    }
    const auto call = [](const void* self, int64_t task, int thread) {
      (*static_cast<const Work*>(self))(task, thread);
    };
    run_job(tasks, call, &work);
  }

 private:
  using Call = void (*)(const void* work, int64_t task, int thread);

  void run_job(int64_t tasks, Call call, const void* work);
  bool take(uint32_t job, int run, int thread);
  void work_on(uint32_t job, int thread);
  void serve(int thread);

  std::vector<std::thread> workers_;
  // Of each thread's run: the number of the job in the upper half, that of the next task in the
  // lower. One exchange takes a task, and fails when the job is over.
  struct alignas(64) Next {
    std::atomic<uint64_t> task{0};
  };
  std::vector<Next> next_;
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> job_{0};  // what sleeping workers watch
  std::atomic<uint32_t> tasks_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> work_{nullptr};
  std::atomic<bool> closing_{false};
  pid_t process_;  // that the workers belong to
};

}  // namespace strop
