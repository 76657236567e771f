// Where the end of a growing text occurred in it before, see lookup.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace strop {

// One state stands for all substrings with the same ends; its link leads to the longest suffix of them
// that has other ends too. Appending takes a few steps on average, and makes at most two states.
// Source: Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text"; here each
// state also knows where it last ended.
class SuffixAutomaton {
 public:
  struct Match {
    int32_t length = 0;  // of the longest end that came before
    int32_t end = 0;     // how many tokens there were when it last did
  };

  void append(int32_t token);
  Match match() const { return match_; }
  size_t nbytes() const;  // without what the allocator adds

 private:
  struct Edge {
    int32_t token, to;
  };
  struct State {
    std::vector<Edge> edges;  // by token
    int32_t link;
    int32_t length;  // of its longest substring
    int32_t end;     // where it last ended
  };

  int32_t add(State state);
  int32_t suffix(int32_t at, int32_t token);

  std::vector<State> states_{{{}, -1, 0, 0}};
  int32_t last_ = 0;  // the state of the whole text
  int32_t size_ = 0;  // of the text
  Match match_;
};

}  // namespace strop
