#include "likely.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace strop {

namespace {

constexpr int64_t kBlock = 256;
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kHighest = std::numeric_limits<float>::max();

using Four = float __attribute__((vector_size(16)));
using Mask = int32_t __attribute__((vector_size(16)));

struct Seen {
  float best = kLowest;
  bool wrong = false;  // there is a NaN or +inf

  void take(float one) {
    best = one > best ? one : best;
    wrong |= !(one <= kHighest);
  }
};

Seen look(const float* x, int64_t count) {
  Four best[2] = {Four{} + kLowest, Four{} + kLowest};
  Mask right = Mask{} - 1;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int half = 0; half < 2; half++) {
      Four some;
      std::memcpy(&some, x + i + 4 * half, sizeof some);
      best[half] = some > best[half] ? some : best[half];
      right &= some <= kHighest;
    }
  Seen all;
  for (int lane = 0; lane < 4; lane++) {
    all.take(best[0][lane]);
    all.take(best[1][lane]);
    all.wrong |= !right[lane];
  }
  for (; i < count; i++) all.take(x[i]);
  return all;
}

}  // namespace

Likely likely(const float* logits, int64_t count, const int64_t* history, int64_t length, float penalty,
              double width, int64_t most) {
  thread_local std::vector<float> penalized;  // fresh memory would cost as much as the work
  const float* x = logits;
  if (penalty != 1) {
    penalized.assign(logits, logits + count);
    for (int64_t i = 0; i < length; i++) {
      const int64_t token = history[i];
      if (token < 0 || token >= count) continue;
      // From the logit itself, as a token may come twice.
      const float one = logits[token];
      penalized[token] = one < 0 ? one * penalty : one / penalty;
    }
    x = penalized.data();
  }
  thread_local std::vector<float> bests;  // of blocks: most have nothing near the best
  bests.clear();
  float best = kLowest;
  for (int64_t first = 0; first < count; first += kBlock) {
    const Seen block = look(x + first, std::min(kBlock, count - first));
    if (block.wrong) return {};
    bests.push_back(block.best);
    best = std::max(best, block.best);
  }
  Likely found;
  if (best == kLowest) return found;
  double floor = best - width;
  if (most > 0 && most <= int64_t(bests.size())) {  // as many blocks have one at least as good
    std::vector<float> sorted = bests;
    std::nth_element(sorted.begin(), sorted.begin() + (most - 1), sorted.end(), std::greater<>());
    floor = std::max(floor, double(sorted[most - 1]));
  }
  if (std::isinf(floor)) {  // all of them
    found.tokens.reserve(count);
    found.logits.reserve(count);
  }
  for (int64_t first = 0; first < count; first += kBlock) {
    if (bests[first / kBlock] < floor) continue;
    for (int64_t i = first; i < std::min(first + kBlock, count); i++)
      if (x[i] >= floor) {
        found.tokens.push_back(i);
        found.logits.push_back(x[i]);
      }
  }
  return found;
}

}  // namespace strop
