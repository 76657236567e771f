// The tokens that may be chosen next, see sampling.py.
#pragma once

#include <cstdint>
#include <vector>

namespace strop {

struct Candidates {
  std::vector<int64_t> tokens;  // ascending
  std::vector<double> scores;
};

struct Filters {
  double penalty;      // divides positive logits of tokens in the history, and multiplies the others
  double temperature;  // at 0 there is one candidate: the first of the best
  int64_t top_k;       // so many, and equals of the last one; 0: all
  double floor;        // of the scores
};

// The score of a token is how far its logit lies above the best one, so 0 or less, divided by the
// temperature. Numbers in the history that are no tokens are passed over. There are no candidates where a
// logit is NaN or +inf, or none is finite. For float and double.
template <typename T>
Candidates candidates(const T* logits, int64_t count, const int64_t* history, int64_t length,
                      const Filters& filters);

}  // namespace strop
