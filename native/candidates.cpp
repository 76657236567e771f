#include "candidates.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>

namespace strop {

namespace {

constexpr int64_t kBlock = 256;
template <typename T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

template <typename T>
struct Seen {
  T best = kLowest<T>;
  bool wrong = false;  // there is a NaN or +inf

  void take(T one) {
    best = one > best ? one : best;
    wrong |= !(one <= std::numeric_limits<T>::max());
  }
};

template <typename T>
Seen<T> look(const T* x, int64_t count) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));  // GCC knows no dependent `using`
  Four best[2] = {Four{} + kLowest<T>, Four{} + kLowest<T>};
  auto right = best[0] == best[0];
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int half = 0; half < 2; half++) {
      Four some;
      std::memcpy(&some, x + i + 4 * half, sizeof some);
      best[half] = some > best[half] ? some : best[half];
      right &= some <= std::numeric_limits<T>::max();
    }
  Seen<T> all;
  for (int lane = 0; lane < 4; lane++) {
    all.take(best[0][lane]);
    all.take(best[1][lane]);
    all.wrong |= !right[lane];
  }
  for (; i < count; i++) all.take(x[i]);
  return all;
}

}  // namespace

template <typename T>
Candidates candidates(const T* logits, int64_t count, const int64_t* history, int64_t length,
                      const Filters& filters) {
  thread_local std::vector<T> penalized;  // fresh memory would cost as much as the work
  const T* x = logits;
  if (filters.penalty != 1) {
    penalized.assign(logits, logits + count);
    for (int64_t i = 0; i < length; i++) {
      const int64_t token = history[i];
      if (token < 0 || token >= count) continue;
      // From the logit itself, as a token may come twice.
      const T one = logits[token];
      penalized[token] = one < 0 ? one * T(filters.penalty) : one / T(filters.penalty);
    }
    x = penalized.data();
  }
  thread_local std::vector<T> bests;  // of blocks: most have nothing near the best
  bests.clear();
  T best = kLowest<T>;
  for (int64_t first = 0; first < count; first += kBlock) {
    const Seen<T> block = look(x + first, std::min(kBlock, count - first));
    if (block.wrong) return {};
    bests.push_back(block.best);
    best = std::max(best, block.best);
  }
  Candidates found;
  if (best == kLowest<T>) return found;
  if (filters.temperature == 0) return {{std::find(x, x + count, best) - x}, {0.0}};
  const auto score = [&](T logit) { return (double(logit) - best) / filters.temperature; };
  double floor = filters.floor;
  if (const int64_t top = filters.top_k; top > 0 && top < count) {
    thread_local std::vector<T> sorted;
    const auto kth = [&](int64_t k) {
      std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<>());
      return sorted[k - 1];
    };
    // As many blocks as this have a logit that is no less: so it bounds the one that is looked for.
    T bound = kLowest<T>;
    if (top <= int64_t(bests.size())) {
      sorted = bests;
      bound = kth(top);
    }
    sorted.clear();
    for (int64_t first = 0; first < count; first += kBlock)
      if (bests[first / kBlock] >= bound)
        std::copy_if(x + first, x + std::min(first + kBlock, count), std::back_inserter(sorted),
                     [&](T one) { return one >= bound; });
    floor = std::max(floor, score(kth(top)));
  }
  if (std::isinf(floor)) {  // all of them
    found.tokens.reserve(count);
    found.scores.reserve(count);
  }
  for (int64_t first = 0; first < count; first += kBlock) {
    if (score(bests[first / kBlock]) < floor) continue;  // dividing keeps the order
    for (int64_t i = first; i < std::min(first + kBlock, count); i++)
      if (const double one = score(x[i]); one >= floor) {
        found.tokens.push_back(i);
        found.scores.push_back(one);
      }
  }
  return found;
}

template Candidates candidates(const float*, int64_t, const int64_t*, int64_t, const Filters&);
template Candidates candidates(const double*, int64_t, const int64_t*, int64_t, const Filters&);

}  // namespace strop
