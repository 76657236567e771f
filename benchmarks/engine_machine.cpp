// The two limits of this machine: `engine_machine read BYTES THREADS` prints the bytes per second
// that THREADS threads read together from one working set, again and again, and `engine_machine dot
// THREADS` the 8-bit multiplications per second of their dot product units.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;
using Line = long long __attribute__((vector_size(64)));

constexpr double kSeconds = 0.5;
constexpr size_t kHugePage = size_t(2) << 20;
volatile long long sink;  // what is computed must be used

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Runs work(thread) in rounds of all threads for a while; returns the seconds of the fastest one.
template <typename Work>
double best_round(int threads, Work work) {
  double best = 1e9, total = 0;
  bool more = true;
  Clock::time_point start;
  std::barrier begin(threads), end(threads);
  auto serve = [&](int thread) {
    for (;;) {
      if (thread == 0) start = Clock::now();
      begin.arrive_and_wait();
      if (!more) return;
      work(thread);
      end.arrive_and_wait();
      if (thread) continue;
      const double seconds = seconds_since(start);
      best = std::min(best, seconds);
      total += seconds;
      more = total < kSeconds;
    }
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; thread++) others.emplace_back(serve, thread);
  serve(0);
  for (std::thread& other : others) other.join();
  return best;
}

double read_bandwidth(size_t bytes, int threads) {
  const size_t lines = bytes / sizeof(Line), mapped = lines * sizeof(Line) + 2 * kHugePage;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, mapped, MADV_HUGEPAGE);
  auto* data = static_cast<Line*>(memory);
  std::fill(data, data + lines, Line{1});
  const double seconds = best_round(threads, [&](int thread) {
    const Line* at = data + lines * size_t(thread) / size_t(threads);
    const Line* end = data + lines * size_t(thread + 1) / size_t(threads);
    Line sums[8] = {};
    for (; at + 8 <= end; at += 8)
      for (int i = 0; i < 8; i++) sums[i] += at[i];
    for (int i = 1; i < 8; i++) sums[0] += sums[i];
    sink = sums[0][0];
  });
  return double(lines * sizeof(Line)) / seconds;
}

// sum += the products of a and b, four by four; in assembler, so that nothing of it is left out.
#if defined(__AVX512VNNI__)
using Sums = __m512i;
inline void dot(Sums& sum, Sums a, Sums b) {
  asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
#elif defined(__AVXVNNI__)
using Sums = __m256i;
inline void dot(Sums& sum, Sums a, Sums b) {
  asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}
#else
using Sums = __m256i;
inline void dot(Sums& sum, Sums a, Sums b) {
  Sums pairs;
  asm volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0"
               : "+x"(sum), "=&x"(pairs)
               : "x"(a), "x"(b));
}
#endif

constexpr int64_t kSteps = 1 << 20;
constexpr int kChains = 12;  // that do not wait for each other: they hide the unit's latency

// A function of its own: inlined into another, the sums would go to memory at each step.
__attribute__((noinline)) void dot_steps() {
  Sums sums[kChains] = {};
  const Sums a = {}, b = {};
  for (int64_t step = 0; step < kSteps; step++)
#pragma GCC unroll 12
    for (Sums& sum : sums) dot(sum, a, b);
}

double dot_peak(int threads) {
  const double seconds = best_round(threads, [](int) { dot_steps(); });
  return double(kSteps) * kChains * sizeof(Sums) * threads / seconds;
}

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  const int threads = count > 2 ? std::atoi(arguments[count - 1]) : 0;
  if (threads < 1) return 2;
  const bool read = what == "read" && count == 4;
  if (!read && what != "dot") return 2;
  std::printf("%.6g\n", read ? read_bandwidth(std::strtoull(arguments[2], nullptr, 10), threads)
                             : dot_peak(threads));
}
