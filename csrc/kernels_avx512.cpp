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

// Line k of a group: four weights of each of 16 rows.
template <bool nibbles>
static inline __m512i load_line(const uint8_t* tile, int k) {
  if (!nibbles) return _mm512_load_si512(tile + k * 64);
  const __m512i both = _mm512_load_si512(tile + k % 4 * 64);
  return _mm512_and_si512(_mm512_srl_epi16(both, _mm_cvtsi32_si128(k & 4)), _mm512_set1_epi8(15));
}

// Adds the products of line k to the sums of MT rows of activations x NT tiles. four(m): row m's activations.
template <int MT, int NT, bool nibbles>
static inline void add_line(const uint8_t* tiles, long tile_stride, int k, __m512i (&acc)[MT][NT], auto four) {
  __m512i w[NT];
  for (int n = 0; n < NT; n++) w[n] = load_line<nibbles>(tiles + n * tile_stride, k);
  for (int m = 0; m < MT; m++) {
    const __m512i v = _mm512_set1_epi32(four(m));
    for (int n = 0; n < NT; n++) acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], w[n], v);
  }
}

// MT rows of activations x NT tiles of 16 weights: MT * NT float and as many integer accumulators stay in registers.
template <int MT, int NT, bool nibbles>
static inline void q8_block(const GemmQ8& g, const uint8_t* tiles, Inputs a, float* out, Ahead& ahead,
                            Prefetch& prefetch) {
  const long tile_stride = (long)g.groups * tile_bytes(nibbles);
  const long lda = (long)g.groups * kGroup;
  __m512 f[MT][NT];
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++) {
      f[m][n] = _mm512_setzero_ps();
      if (g.then != Then::stream) __builtin_prefetch(out + (long)m * g.ldo + n * kLanes, 1);
    }
  for (int group = 0; group < g.groups; group++) {
    __m512i acc[MT][NT];
    for (int m = 0; m < MT; m++)
      for (int n = 0; n < NT; n++) acc[m][n] = _mm512_setzero_si512();
    for (int i = 0; i < ahead.lines; i++) ahead.fetch(i);
    ahead.next += ahead.lines * 64;
    prefetch.fetch();
    unsigned marks = 0;
    for (int m = 0; m < MT; m++) marks |= a.group[m * g.groups].marks;
    if (marks) {
      for (; marks; marks &= marks - 1) {
        const int k = __builtin_ctz(marks);
        add_line<MT, NT, nibbles>(tiles, tile_stride, k, acc,
                                  [&](int m) { return high_parts(a.from_group((long)m * g.groups), k); });
      }
      for (int m = 0; m < MT; m++)
        for (int n = 0; n < NT; n++) acc[m][n] = _mm512_slli_epi32(acc[m][n], 8);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kGroup / 4; k++)
      add_line<MT, NT, nibbles>(tiles, tile_stride, k, acc, [&](int m) { return low_parts(a.low + m * lda, k); });
    tiles += tile_bytes(nibbles);
    for (int n = 0; n < NT; n++) {
      const uint16_t* half = (const uint16_t*)(tiles + n * tile_stride) - 2 * kLanes;
      const __m512 scale = load_half(half).v, low = load_half(half + kLanes).v;
      for (int m = 0; m < MT; m++) {
        const __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(a.group[m * g.groups].scale));
        f[m][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[m][n]), s, f[m][n]);
        f[m][n] = _mm512_fmadd_ps(low, _mm512_set1_ps(a.group[m * g.groups].scaled_sum), f[m][n]);
      }
    }
    a = a.from_group(1);
  }
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++) write(out + (long)m * g.ldo + n * kLanes, {f[m][n]}, g.then);
}

template <int NT, bool nibbles>
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
    run(g, tiles, g.a_row(m), g.out + (long)m * g.ldo + tile * kLanes, ahead, prefetch);
    m += rows;
    if (ahead.next >= next + panel) ahead.lines = 0;
  };
  while (g.rows - m >= 4) block(q8_block<4, NT, nibbles>, 4);
  if (g.rows - m == 3) block(q8_block<3, NT, nibbles>, 3);
  if (g.rows - m == 2) block(q8_block<2, NT, nibbles>, 2);
  if (g.rows - m == 1) block(q8_block<1, NT, nibbles>, 1);
  *g.prefetch = prefetch;
}

template <bool nibbles>
static void q8_tiles(const GemmQ8& g) {
  int tile = 0;
  if (g.rows == 1)
    for (; tile + 4 <= g.num_tiles; tile += 4) q8_panel<4, nibbles>(g, tile);
  for (; tile + 3 <= g.num_tiles; tile += 3) q8_panel<3, nibbles>(g, tile);
  if (tile + 2 <= g.num_tiles) q8_panel<2, nibbles>(g, tile), tile += 2;
  if (tile < g.num_tiles) q8_panel<1, nibbles>(g, tile);
}

static void gemm_q8(const GemmQ8& g) {
  g.nibbles ? q8_tiles<true>(g) : q8_tiles<false>(g);
  end_writes(g.then);
}

}  // namespace KERNEL_NS

#include "kernels_table.h"
