#include "suffix_automaton.hpp"

#include <algorithm>
#include <utility>

namespace strop {

namespace {

// Of a chain that are brought up to date; a text of one token repeated has long ones.
constexpr int kMostLinks = 64;

// Return where the edge of a token is, or would be.
template <typename Edges>
auto place(Edges& edges, int32_t token) {
  return std::lower_bound(edges.begin(), edges.end(), token,
                          [](const auto& edge, int32_t of) { return edge.token < of; });
}

}  // namespace

void SuffixAutomaton::append(int32_t token) {
  size_++;
  const int32_t whole = add({{}, 0, size_, size_});
  int32_t at = last_;
  for (; at >= 0; at = states_[at].link) {
    auto& edges = states_[at].edges;
    const auto found = place(edges, token);
    if (found != edges.end() && found->token == token) break;
    edges.insert(found, {token, whole});
  }
  int32_t found = at >= 0 ? suffix(at, token) : 0;
  states_[whole].link = found;
  last_ = whole;
  match_ = {states_[found].length, states_[found].end};
  for (int link = 0; link < kMostLinks && found > 0; link++, found = states_[found].link)
    states_[found].end = size_;
}

// Return the state of the longest substring of a state, followed by a token.
int32_t SuffixAutomaton::suffix(int32_t at, int32_t token) {
  const int32_t found = place(states_[at].edges, token)->to;
  if (states_[found].length == states_[at].length + 1) return found;
  // The state holds longer ones too, which have not come now: they are split off.
  State shorter = states_[found];
  shorter.length = states_[at].length + 1;
  const int32_t part = add(std::move(shorter));
  states_[found].link = part;
  for (; at >= 0; at = states_[at].link) {
    auto& edges = states_[at].edges;
    const auto edge = place(edges, token);
    if (edge == edges.end() || edge->token != token || edge->to != found) break;
    edge->to = part;
  }
  return part;
}

int32_t SuffixAutomaton::add(State state) {
  states_.push_back(std::move(state));
  return int32_t(states_.size()) - 1;
}

size_t SuffixAutomaton::nbytes() const {
  size_t bytes = states_.capacity() * sizeof(State);
  for (const State& state : states_) bytes += state.edges.capacity() * sizeof(Edge);
  return bytes;
}

}  // namespace strop
