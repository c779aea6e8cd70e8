// Plain C++ for any machine: the slow definition of the same bits.
#define KERNEL_NS portable
#include "vec_portable.h"

#include "kernels_impl.h"

namespace KERNEL_NS {

static void gemm_q8(const GemmQ8& g) {
  for (int t = 0; t < g.num_tiles; t++)
    for (int m = 0; m < g.rows; m++) {
      const uint8_t* tile = g.tiles + (long)t * g.groups * tile_bytes(g.nibbles);
      Inputs a = g.a_row(m);
      F f = set1(0.0f);
      for (int group = 0; group < g.groups; group++) {
        I acc = iset1(0);
        for (int k = 0; k < kGroup; k++) {
          const int line = g.nibbles ? k / 4 % 4 : k / 4, shift = k < kGroup / 2 ? 0 : 4;
          const int value = (a.group->marks >> k / 4 & 1 ? 256 * a.high[k] : 0) + a.low[k];
          for (int i = 0; i < kLanes; i++) {
            const int byte = tile[(line * kLanes + i) * 4 + k % 4];
            acc.v[i] += (g.nibbles ? byte >> shift & 15 : byte) * value;
          }
        }
        tile += tile_bytes(g.nibbles);
        const uint16_t* half = (const uint16_t*)tile - 2 * kLanes;
        f = fma(to_float(acc), mul(load_half(half), set1(a.group->scale)), f);
        f = fma(load_half(half + kLanes), set1(a.group->scaled_sum), f);
        a = a.from_group(1);
      }
      write(g.out + (long)m * g.ldo + t * kLanes, f, g.then);
    }
}

}  // namespace KERNEL_NS

#include "kernels_table.h"
