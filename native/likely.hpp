// The tokens that sampling has to look at, see sampling.py.
#pragma once

#include <cstdint>
#include <vector>

namespace strop {

struct Likely {
  std::vector<int64_t> tokens;  // ascending
  std::vector<double> logits;
};

// Return the tokens whose logits are at most `width` below the best one; of these the `most` best and
// their equals, perhaps more, if that is not 0. Before that the logits of tokens in `history` are divided
// by `penalty` where they are positive, and multiplied where not; numbers in it that are no tokens are
// passed over. Nothing is returned where a logit is NaN or +inf, or none is finite.
Likely likely(const float* logits, int64_t count, const int64_t* history, int64_t length, float penalty,
              double width, int64_t most);

}  // namespace strop
