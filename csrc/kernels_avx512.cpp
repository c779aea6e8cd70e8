// AVX-512 with VNNI: 64 products of 8 bits in one instruction.
#define KERNEL_NS avx512
#include "vec_avx512.h"

#include "kernels_impl.h"

namespace KERNEL_NS {

// Fetches the weights that come next while those at hand are multiplied.
struct Ahead {
  const char* next;
  int lines;  // per group

  void fetch(int i) { _mm_prefetch(next + i * 64, _MM_HINT_T0); }
};

// MT rows of activations x NT tiles of 16 weights: MT * NT float and as many integer accumulators stay in registers.
template <int MT, int NT, bool nibbles, bool fine>
static inline void q8_block(const GemmQ8& g, const uint8_t* tiles, const int8_t* a, const float* scales, float* out,
                            Ahead& ahead, Prefetch& prefetch) {
  const long tile_stride = (long)g.groups * tile_bytes(nibbles);
  const long lda = g.groups * g.a_step(), lds = 2L * g.groups;
  const __m512i low_half = _mm512_set1_epi8(15);
  __m512 f[MT][NT];
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++) f[m][n] = _mm512_setzero_ps();
  for (int group = 0; group < g.groups; group++) {
    __m512i acc[MT][NT], rest[MT][NT];
    for (int m = 0; m < MT; m++)
      for (int n = 0; n < NT; n++) acc[m][n] = rest[m][n] = _mm512_setzero_si512();
    for (int i = 0; i < ahead.lines; i++) ahead.fetch(i);
    ahead.next += ahead.lines * 64;
    prefetch.fetch();
#pragma GCC unroll 8
    for (int k = 0; k < kGroup / 4; k++) {
      __m512i w[NT];
      for (int n = 0; n < NT; n++) {
        w[n] = _mm512_load_si512(tiles + n * tile_stride + (nibbles ? k % 4 : k) * 64);
        if (nibbles && k >= 4) w[n] = _mm512_srli_epi16(w[n], 4);
        if (nibbles) w[n] = _mm512_and_si512(w[n], low_half);
      }
      for (int m = 0; m < MT; m++) {
        int32_t four;
        __builtin_memcpy(&four, a + m * lda + k * 4, 4);
        const __m512i v = _mm512_set1_epi32(four);
        for (int n = 0; n < NT; n++) acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], w[n], v);
        if (!fine) continue;
        __builtin_memcpy(&four, a + m * lda + kGroup + k * 4, 4);
        const __m512i l = _mm512_set1_epi32(four);
        for (int n = 0; n < NT; n++) rest[m][n] = _mm512_dpbusd_epi32(rest[m][n], w[n], l);
      }
    }
    tiles += tile_bytes(nibbles);
    for (int n = 0; n < NT; n++) {
      const uint16_t* half = (const uint16_t*)(tiles + n * tile_stride) - 2 * kLanes;
      const __m512 scale = load_half(half).v, low = load_half(half + kLanes).v;
      for (int m = 0; m < MT; m++) {
        if (fine) acc[m][n] = _mm512_add_epi32(_mm512_slli_epi32(acc[m][n], 7), rest[m][n]);
        const __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(scales[m * lds]));
        f[m][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[m][n]), s, f[m][n]);
        f[m][n] = _mm512_fmadd_ps(low, _mm512_set1_ps(scales[m * lds + 1]), f[m][n]);
      }
    }
    a += g.a_step(), scales += 2;
  }
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++) {
      float* o = out + (long)m * g.ldo + n * kLanes;
      _mm512_storeu_ps(o, g.add ? _mm512_add_ps(_mm512_loadu_ps(o), f[m][n]) : f[m][n]);
    }
}

template <int NT, bool nibbles, bool fine>
static void q8_panel(const GemmQ8& g, int tile) {
  const long panel = (long)NT * g.groups * tile_bytes(nibbles);
  const uint8_t* tiles = g.tiles + (long)tile * g.groups * tile_bytes(nibbles);
  const long blocks = (g.rows + 3) / 4;
  const long lines = (panel / 64 + blocks * g.groups - 1) / (blocks * g.groups);
  const char* next = (const char*)(tile + NT < g.num_tiles ? tiles + panel : g.ahead);
  Ahead ahead{next, (int)lines};
  Prefetch prefetch = *g.prefetch;
  int m = 0;
  auto block = [&](auto run, int rows) {
    run(g, tiles, g.a_row(m), g.scales_row(m), g.out + (long)m * g.ldo + tile * kLanes, ahead, prefetch);
    m += rows;
    if (ahead.next >= next + panel) ahead.lines = 0;
  };
  while (g.rows - m >= 4) block(q8_block<4, NT, nibbles, fine>, 4);
  if (g.rows - m == 3) block(q8_block<3, NT, nibbles, fine>, 3);
  if (g.rows - m == 2) block(q8_block<2, NT, nibbles, fine>, 2);
  if (g.rows - m == 1) block(q8_block<1, NT, nibbles, fine>, 1);
  *g.prefetch = prefetch;
}

template <bool nibbles, bool fine>
static void q8_tiles(const GemmQ8& g) {
  int tile = 0;
  if (g.rows == 1)
    for (; tile + 4 <= g.num_tiles; tile += 4) q8_panel<4, nibbles, fine>(g, tile);
  if (!fine)
    for (; tile + 3 <= g.num_tiles; tile += 3) q8_panel<3, nibbles, fine>(g, tile);
  for (; tile + 2 <= g.num_tiles; tile += 2) q8_panel<2, nibbles, fine>(g, tile);
  if (tile < g.num_tiles) q8_panel<1, nibbles, fine>(g, tile);
}

static void gemm_q8(const GemmQ8& g) {
  if (g.fine)
    g.nibbles ? q8_tiles<true, true>(g) : q8_tiles<false, true>(g);
  else
    g.nibbles ? q8_tiles<true, false>(g) : q8_tiles<false, false>(g);
}

}  // namespace KERNEL_NS

#include "kernels_table.h"
