// Philox4x32-10: random numbers as a pure function of key and counter (Salmon et al., SC 2011, section 3.3).
#pragma once
#include <array>
#include <cstdint>

inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
    counter = {(uint32_t)(b >> 32) ^ counter[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ counter[3] ^ key[1],
               (uint32_t)a};
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  return counter;
}

// The uniform number in [0, 1) of a sequence's token at `position`.
inline double uniform(uint64_t seed, uint32_t position) {
  return (philox4x32({position, 0, 0, 0}, {(uint32_t)seed, (uint32_t)(seed >> 32)})[0] >> 8) * 0x1p-24;
}
