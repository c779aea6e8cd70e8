// AVX2, compiled twice: with AVX-VNNI's 8-bit products, and without, where 16-bit products keep the sums exact.
#ifdef __AVXVNNI__
#define KERNEL_NS avxvnni
#else
#define KERNEL_NS avx2
#endif
#include "vec_avx2.h"

#include "kernels_impl.h"

namespace KERNEL_NS {

// Four activations against 8 rows of weights. dot adds to a sum that `total` turns into 32-bit integers after a group.
template <bool nibbles>
struct Activations {
#ifdef __AVXVNNI__
  __m256i v;
  explicit Activations(int32_t four) : v(_mm256_set1_epi32(four)) {}
  __m256i dot(__m256i acc, __m256i w) const { return _mm256_dpbusd_avx_epi32(acc, w, v); }
  static __m256i total(__m256i acc) { return acc; }
#else
  __m256i v, even, odd;
  explicit Activations(int32_t four) : v(_mm256_set1_epi32(four)) {
    even = _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
    odd = _mm256_srai_epi16(v, 8);
  }
  // NOTE: 16 products of 15 * 128 fit in 16 bits, 2 of 255 * 128 do not: maddubs would saturate.
  __m256i dot(__m256i acc, __m256i w) const {
    if (nibbles) return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, v));
    const __m256i low = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even);
    return _mm256_add_epi32(acc, _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd)));
  }
  static __m256i total(__m256i acc) { return nibbles ? _mm256_madd_epi16(acc, _mm256_set1_epi16(1)) : acc; }
#endif
};

// Adds the products of line k of a group to the sums of MT rows.
template <int MT, bool nibbles>
static inline void add_line(const uint8_t* tile, int k, I (&acc)[MT], auto four) {
  const __m256i* line = (const __m256i*)(tile + (nibbles ? k % 4 : k) * 64);
  __m256i lower = _mm256_load_si256(line), upper = _mm256_load_si256(line + 1);
  if (nibbles) {
    const __m256i low_half = _mm256_set1_epi8(15);
    const __m128i shift = _mm_cvtsi32_si128(k & 4);
    lower = _mm256_and_si256(_mm256_srl_epi16(lower, shift), low_half);
    upper = _mm256_and_si256(_mm256_srl_epi16(upper, shift), low_half);
  }
  for (int m = 0; m < MT; m++) {
    const Activations<nibbles> v(four(m));
    acc[m] = {v.dot(acc[m].a, lower), v.dot(acc[m].b, upper)};
  }
}

template <int MT, bool nibbles>
static void q8_block(const GemmQ8& g, const uint8_t* tile, Inputs a, float* out) {
  const long lda = (long)g.groups * kGroup;
  auto total = [](I sum) -> I { return {Activations<nibbles>::total(sum.a), Activations<nibbles>::total(sum.b)}; };
  F f[MT];
  for (int m = 0; m < MT; m++) f[m] = set1(0.0f);
  for (int group = 0; group < g.groups; group++) {
    I acc[MT];
    unsigned marks = 0;
    for (int m = 0; m < MT; m++) acc[m] = iset1(0), marks |= a.group[m * g.groups].marks;
#pragma GCC unroll 8
    for (int k = 0; k < kGroup / 4; k++)
      add_line<MT, nibbles>(tile, k, acc, [&](int m) { return low_parts(a.low + m * lda, k); });
    for (int m = 0; m < MT; m++) acc[m] = total(acc[m]);
    if (marks) {
      I high[MT];
      for (int m = 0; m < MT; m++) high[m] = iset1(0);
      for (; marks; marks &= marks - 1) {
        const int k = __builtin_ctz(marks);
        add_line<MT, nibbles>(tile, k, high, [&](int m) { return high_parts(a.from_group((long)m * g.groups), k); });
      }
      for (int m = 0; m < MT; m++) acc[m] = iadd(acc[m], shift_left<8>(total(high[m])));
    }
    tile += tile_bytes(nibbles);
    const uint16_t* half = (const uint16_t*)tile - 2 * kLanes;
    const F scale = load_half(half), low = load_half(half + kLanes);
    for (int m = 0; m < MT; m++) {
      f[m] = fma(to_float(acc[m]), mul(scale, set1(a.group[m * g.groups].scale)), f[m]);
      f[m] = fma(low, set1(a.group[m * g.groups].scaled_sum), f[m]);
    }
    a = a.from_group(1);
  }
  for (int m = 0; m < MT; m++) write(out + (long)m * g.ldo, f[m], g.then);
}

template <bool nibbles>
static void q8_tiles(const GemmQ8& g) {
  for (int t = 0; t < g.num_tiles; t++) {
    const uint8_t* tile = g.tiles + (long)t * g.groups * tile_bytes(nibbles);
    int m = 0;
    auto block = [&](auto run, int rows) {
      run(g, tile, g.a_row(m), g.out + (long)m * g.ldo + t * kLanes);
      m += rows;
    };
    while (g.rows - m >= 2) block(q8_block<2, nibbles>, 2);
    if (g.rows - m == 1) block(q8_block<1, nibbles>, 1);
  }
}

static void gemm_q8(const GemmQ8& g) {
  g.nibbles ? q8_tiles<true>(g) : q8_tiles<false>(g);
  end_writes(g.then);
}

}  // namespace KERNEL_NS

#include "kernels_table.h"
