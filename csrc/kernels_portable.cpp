// Plain C++ for any machine: the slow definition of the same bits.
#define KERNEL_NS portable
#include "vec_portable.h"

#include "kernels_impl.h"

namespace KERNEL_NS {

static void gemm_q8(const GemmQ8& g) {
  for (int t = 0; t < g.num_tiles; t++)
    for (int m = 0; m < g.rows; m++) {
      const uint8_t* tile = g.tiles + (long)t * g.groups * tile_bytes(g.nibbles);
      const int8_t* a = g.a_row(m);
      const float* scales = g.scales_row(m);
      F f = set1(0.0f);
      for (int group = 0; group < g.groups; group++) {
        I acc = iset1(0);
        for (int k = 0; k < kGroup; k++) {
          const int line = g.nibbles ? k / 4 % 4 : k / 4, shift = k < kGroup / 2 ? 0 : 4;
          for (int i = 0; i < kLanes; i++) {
            const int byte = tile[(line * kLanes + i) * 4 + k % 4];
            acc.v[i] += (g.nibbles ? byte >> shift & 15 : byte) * (g.fine ? 128 * a[k] + a[kGroup + k] : a[k]);
          }
        }
        tile += tile_bytes(g.nibbles);
        const uint16_t* half = (const uint16_t*)tile - 2 * kLanes;
        f = fma(to_float(acc), mul(load_half(half), set1(scales[0])), f);
        f = fma(load_half(half + kLanes), set1(scales[1]), f);
        a += g.a_step(), scales += 2;
      }
      float* o = g.out + (long)m * g.ldo + t * kLanes;
      store(o, g.add ? add(load(o), f) : f);
    }
}

}  // namespace KERNEL_NS

#include "kernels_table.h"
