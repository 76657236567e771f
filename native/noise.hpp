// Random words that depend only on a key and a counter, see noise.py.
#pragma once

#include <array>
#include <cstdint>

namespace strop {

using Words = std::array<uint32_t, 4>;

// Philox4x32-10. Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011, section 3.3.
inline Words philox(Words counter, uint64_t key) {
  uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(counter[0]) * 0xD2511F53u, b = uint64_t(counter[2]) * 0xCD9E8D57u;
    counter = {uint32_t(b >> 32) ^ counter[1] ^ low, uint32_t(b),
               uint32_t(a >> 32) ^ counter[3] ^ high, uint32_t(a)};
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace strop
