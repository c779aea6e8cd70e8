// aarch64 with the dot product instructions of ARMv8.2.
#define KERNEL_NS neon
#include "vec_neon.h"

#include "kernels_impl.h"

namespace KERNEL_NS {

// NOTE: both factors of vdotq_s32 are signed. Weights over 127 are read as w - 128, and 128 times the sum of the
// activations is added at the end: the result is the same integer.
template <bool nibbles>
static void dot_group(const uint8_t* tile, const int8_t* a, I& acc) {
  const int8x16_t values[2] = {vld1q_s8(a), vld1q_s8(a + 16)};
  const int32_t sum = vaddlvq_s8(values[0]) + vaddlvq_s8(values[1]);
  acc = iset1(nibbles ? 0 : 128 * sum);
  for (int k = 0; k < kGroup / 4; k++) {
    int32_t four;
    __builtin_memcpy(&four, a + 4 * k, 4);
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) {
      uint8x16_t w = vld1q_u8(tile + (nibbles ? k % 4 : k) * 64 + 16 * i);
      if (nibbles)
        w = k < 4 ? vandq_u8(w, vdupq_n_u8(15)) : vshrq_n_u8(w, 4);
      else
        w = veorq_u8(w, vdupq_n_u8(128));
      acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w), v);
    }
  }
}

template <bool nibbles>
static void q8_tiles(const GemmQ8& g) {
  for (int t = 0; t < g.num_tiles; t++)
    for (int m = 0; m < g.rows; m++) {
      const uint8_t* tile = g.tiles + (long)t * g.groups * tile_bytes(nibbles);
      Inputs a = g.a_row(m);
      F f = set1(0.0f);
      for (int group = 0; group < g.groups; group++, a = a.from_group(1)) {
        I acc, high;
        dot_group<nibbles>(tile, a.low, acc);
        if (a.group->marks) {
          dot_group<nibbles>(tile, a.high, high);
          acc = iadd(shift_left<8>(high), acc);
        }
        tile += tile_bytes(nibbles);
        const uint16_t* half = (const uint16_t*)tile - 2 * kLanes;
        f = fma(to_float(acc), mul(load_half(half), set1(a.group->scale)), f);
        f = fma(load_half(half + kLanes), set1(a.group->scaled_sum), f);
      }
      write(g.out + (long)m * g.ldo + t * kLanes, f, g.then);
    }
}

static void gemm_q8(const GemmQ8& g) { g.nibbles ? q8_tiles<true>(g) : q8_tiles<false>(g); }

}  // namespace KERNEL_NS

#include "kernels_table.h"
