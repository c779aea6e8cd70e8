// AVX-512 with VNNI: 64 products of 8 bits in one instruction.
#define KERNEL_NS avx512
#include "vec_avx512.h"

#include "kernels_impl.h"

namespace KERNEL_NS {

// MT rows of activations x NT tiles of 16 weights: MT * NT float and as many integer accumulators stay in registers.
template <int MT, int NT>
static inline void q8_block(const GemmQ8& g, const uint8_t* tiles, const int8_t* a, const float* scales, float* out) {
  const long tile_stride = (long)g.groups * kTileBytes, lda = (long)g.groups * kGroup, lds = 2L * g.groups;
  __m512 f[MT][NT];
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++) f[m][n] = _mm512_setzero_ps();
  for (int group = 0; group < g.groups; group++) {
    __m512i acc[MT][NT];
    for (int m = 0; m < MT; m++)
      for (int n = 0; n < NT; n++) acc[m][n] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int k = 0; k < kGroup / 4; k++) {
      __m512i w[NT];
      for (int n = 0; n < NT; n++) {
        w[n] = _mm512_load_si512(tiles + n * tile_stride + k * 64);
        if (MT == 1) _mm_prefetch((const char*)(tiles + n * tile_stride + k * 64 + 2304), _MM_HINT_T0);
      }
      for (int m = 0; m < MT; m++) {
        int32_t four;
        __builtin_memcpy(&four, a + m * lda + k * 4, 4);
        const __m512i v = _mm512_set1_epi32(four);
        for (int n = 0; n < NT; n++) acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], w[n], v);
      }
    }
    for (int n = 0; n < NT; n++) {
      const uint16_t* half = (const uint16_t*)(tiles + n * tile_stride + kLanes * kGroup);
      const __m512 scale = load_half(half).v, low = load_half(half + kLanes).v;
      for (int m = 0; m < MT; m++) {
        const __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(scales[m * lds]));
        f[m][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[m][n]), s, f[m][n]);
        f[m][n] = _mm512_fmadd_ps(low, _mm512_set1_ps(scales[m * lds + 1]), f[m][n]);
      }
    }
    tiles += kTileBytes, a += kGroup, scales += 2;
  }
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++) {
      float* o = out + (long)m * g.ldo + n * kLanes;
      _mm512_storeu_ps(o, g.add ? _mm512_add_ps(_mm512_loadu_ps(o), f[m][n]) : f[m][n]);
    }
}

template <int NT>
static void q8_panel(const GemmQ8& g, int tile) {
  const uint8_t* tiles = g.tiles + (long)tile * g.groups * kTileBytes;
  const long lda = (long)g.groups * kGroup, lds = 2L * g.groups;
  int m = 0;
  auto block = [&](auto run, int rows) {
    run(g, tiles, g.a + m * lda, g.scales + m * lds, g.out + (long)m * g.ldo + tile * kLanes);
    m += rows;
  };
  while (g.rows - m >= 4) block(q8_block<4, NT>, 4);
  if (g.rows - m == 3) block(q8_block<3, NT>, 3);
  if (g.rows - m == 2) block(q8_block<2, NT>, 2);
  if (g.rows - m == 1) block(q8_block<1, NT>, 1);
}

static void gemm_q8(const GemmQ8& g) {
  int tile = 0;
  if (g.rows == 1)
    for (; tile + 4 <= g.num_tiles; tile += 4) q8_panel<4>(g, tile);
  for (; tile + 3 <= g.num_tiles; tile += 3) q8_panel<3>(g, tile);
  if (g.num_tiles - tile == 2) q8_panel<2>(g, tile);
  if (g.num_tiles - tile == 1) q8_panel<1>(g, tile);
}

}  // namespace KERNEL_NS

#include "kernels_table.h"
