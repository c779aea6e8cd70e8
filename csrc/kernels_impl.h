// Row kernels written once over the 16-lane vectors of vec_*.h, compiled once per instruction set.
#pragma once
#include "kernels.h"

namespace KERNEL_NS {

inline F exp_lanes(F x) {  // relative error below 2e-7; exactly 0 below -87
  const F low = set1(-87.0f);
  const F c = min(max(x, low), set1(88.0f));
  const I n = round_int(mul(c, set1(1.44269504088896341f)));
  const F nf = to_float(n);
  F r = fma(nf, set1(-0.693359375f), c);
  r = fma(nf, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  p = mul(p, as_float(shift_left<23>(iadd(n, iset1(127)))));
  return select_lt(x, low, set1(0.0f), p);
}

inline float exp_one(float x) {
  float lane[16];
  store(lane, exp_lanes(set1(x)));
  return lane[0];
}

static void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  F s = set1(0.0f);
  for (int i = 0; i < n; i += 16) {
    const F v = load(x + i);
    s = fma(v, v, s);
  }
  const F scale = set1(1.0f / __builtin_sqrtf(reduce_add(s) / (float)n + eps));
  for (int i = 0; i < n; i += 16) store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
}

// One group's 32 values as integers up to `largest`, and its scales.
inline void round_group(const float* x, float largest, I& a, I& b, float* scales) {
  const F u = load(x), v = load(x + 16);
  // Compared as integers, a NaN is larger than every number, so it reaches the scale and then the logits.
  const I magnitude = iset1(0x7fffffff);
  const int32_t top = reduce_imax(imax(iand(bits(u), magnitude), iand(bits(v), magnitude)));
  float amax;
  __builtin_memcpy(&amax, &top, 4);
  const bool zero = amax < 1e-30f;
  const F inverse = set1(zero ? 0.0f : largest / amax);
  a = round_int(mul(u, inverse)), b = round_int(mul(v, inverse));
  scales[0] = zero ? 0.0f : amax / largest;
  scales[1] = scales[0] * (float)reduce_iadd(iadd(a, b));
}

static void quantize(const float* x, int groups, int8_t* q, float* scales) {
  for (int g = 0; g < groups; g++, q += kGroup) {
    I a, b;
    round_group(x + g * kGroup, 127.0f, a, b, scales + 2 * g);
    store_bytes(q, a);
    store_bytes(q + 16, b);
  }
}

static void quantize_fine(const float* x, int groups, int8_t* q, float* scales) {
  auto split = [](I v, int8_t* high_part) {
    const I high = shift_right<7>(iadd(v, iset1(64)));  // rounds, so that the rest is within -64 to 63
    store_bytes(high_part, high);
    store_bytes(high_part + kGroup, isub(v, shift_left<7>(high)));
  };
  for (int g = 0; g < groups; g++, q += 2 * kGroup) {
    I a, b;
    round_group(x + g * kGroup, 127.0f * 128.0f, a, b, scales + 2 * g);
    split(a, q);
    split(b, q + 16);
  }
}

static void swiglu(const float* gate_up, int pairs, float* out) {
  const F one = set1(1.0f), zero = set1(0.0f);
  for (int i = 0; i < pairs; i++, gate_up += 32, out += 16) {
    const F gate = load(gate_up);
    store(out, mul(div(gate, add(one, exp_lanes(sub(zero, gate)))), load(gate_up + 16)));
  }
}

static void rope(const float* x, const float* cos, const float* sin, int half, float scale, float* out) {
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    out[i] = __builtin_fmaf(-b, sin[i], a * cos[i]) * scale;
    out[i + half] = __builtin_fmaf(a, sin[i], b * cos[i]) * scale;
  }
}

// acc[q][j] = acc + sum over k of a[q][k] * b[j][k], one chain per element whatever the block it is computed in.
template <int Q, int N, class B>
inline void block_product(const float* a, long lda, int k, const B* const* b, int ldb, F (&acc)[Q][N]) {
  for (int i = 0; i < k; i++) {
    F w[N];
    for (int j = 0; j < N; j++) w[j] = load(b[j] + (long)i * ldb);
    for (int q = 0; q < Q; q++) {
      const F v = set1(a[q * lda + i]);
      for (int j = 0; j < N; j++) acc[q][j] = fma(v, w[j], acc[q][j]);
    }
  }
}

// c[q][16 j ...] = sum over k, or c + that sum continued from c.
template <int Q, int N, class B>
static void product(const float* a, long lda, int k, const B* const* b, int ldb, float* c, long ldc, bool resume) {
  F acc[Q][N];
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) acc[q][j] = resume ? load(c + q * ldc + 16 * j) : set1(0.0f);
  block_product<Q, N>(a, lda, k, b, ldb, acc);
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) store(c + q * ldc + 16 * j, acc[q][j]);
}

template <int Q, class B>
static void product_row_block(const float* a, long lda, int k, const B* const* b, int n, int ldb, float* c, long ldc,
                              bool resume) {
  int j = 0;
  for (; j + kLaneBlock <= n; j += kLaneBlock)
    product<Q, kLaneBlock>(a, lda, k, b + j, ldb, c + 16 * j, ldc, resume);
  for (; j < n; j++) product<Q, 1>(a, lda, k, b + j, ldb, c + 16 * j, ldc, resume);
}

// Up to kQueryBlock rows of a against n columns of 16.
template <class B>
static void product_rows(int rows, const float* a, long lda, int k, const B* const* b, int n, int ldb, float* c,
                         long ldc, bool resume) {
  while (rows) {
    const int q = rows < kQueryBlock ? rows : kQueryBlock;
    switch (q) {
      case 1: product_row_block<1>(a, lda, k, b, n, ldb, c, ldc, resume); break;
      case 2: product_row_block<2>(a, lda, k, b, n, ldb, c, ldc, resume); break;
      case 3: product_row_block<3>(a, lda, k, b, n, ldb, c, ldc, resume); break;
      case 4: product_row_block<4>(a, lda, k, b, n, ldb, c, ldc, resume); break;
      case 5: product_row_block<5>(a, lda, k, b, n, ldb, c, ldc, resume); break;
      default: product_row_block<6>(a, lda, k, b, n, ldb, c, ldc, resume);
    }
    a += q * lda, c += q * ldc, rows -= q;
  }
}

template <int Q, int N>
inline void gemm_f32_block(const GemmF32& g, int tile, int row) {
  const float* b[N];
  for (int j = 0; j < N; j++) b[j] = g.tiles + (long)(tile + j) * g.k * 16;
  F acc[Q][N];
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) acc[q][j] = set1(0.0f);
  block_product<Q, N>(g.a + (long)row * g.lda, g.lda, g.k, b, 16, acc);
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) {
      float* o = g.out + (long)(row + q) * g.ldo + (tile + j) * 16;
      store(o, g.add ? add(load(o), acc[q][j]) : acc[q][j]);
    }
}

static void gemm_f32(const GemmF32& g) {
  for (int tile = 0; tile < g.num_tiles;) {
    const bool wide = tile + kLaneBlock <= g.num_tiles;
    int row = 0;
    for (; row + kQueryBlock <= g.rows; row += kQueryBlock)
      wide ? gemm_f32_block<kQueryBlock, kLaneBlock>(g, tile, row) : gemm_f32_block<kQueryBlock, 1>(g, tile, row);
    for (; row < g.rows; row++)
      wide ? gemm_f32_block<1, kLaneBlock>(g, tile, row) : gemm_f32_block<1, 1>(g, tile, row);
    tile += wide ? kLaneBlock : 1;
  }
}

static void merge(float* out, float* max, float* sum, const float* part, float part_max, float part_sum, int n) {
  const float top = part_max > *max ? part_max : *max;
  const float keep = exp_one(*max - top), gain = exp_one(part_max - top);
  for (int i = 0; i < n; i += 16) store(out + i, fma(load(part + i), set1(gain), mul(load(out + i), set1(keep))));
  *sum = __builtin_fmaf(part_sum, gain, *sum * keep);
  *max = top;
}

static void finish(const float* out, float sum, int n, float* result) {
  for (int i = 0; i < n; i++) result[i] = out[i] / sum;
}

static float max_value(const float* x, int n, bool* finite) {
  F top = set1(-__builtin_inff());
  I magnitude = iset1(0);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const F v = load(x + i);
    top = max(v, top);
    magnitude = imax(magnitude, iand(bits(v), iset1(0x7fffffff)));
  }
  float m = reduce_max(top);
  int32_t largest = reduce_imax(magnitude);
  for (; i < n; i++) {
    m = x[i] > m ? x[i] : m;
    int32_t b;
    __builtin_memcpy(&b, x + i, 4);
    b &= 0x7fffffff;
    largest = b > largest ? b : largest;
  }
  *finite = largest < 0x7f800000;
  return m;
}

static void softmax_terms(const float* x, int n, float temperature, float max, float* p, float* sums) {
  const F t = set1(temperature), m = set1(max);
  for (int block = 0; block < n; block += kSumBlock) {
    F s = set1(0.0f);
    const int end = block + kSumBlock < n ? block + kSumBlock : n;
    int i = block;
    for (; i + 16 <= end; i += 16) {
      const F v = exp_lanes(div(sub(load(x + i), m), t));
      store(p + i, v);
      s = add(s, v);
    }
    if (i < end) {
      float tail[16];
      for (int j = 0; j < 16; j++) tail[j] = i + j < end ? x[i + j] : max;
      const F v = keep_first(exp_lanes(div(sub(load(tail), m), t)), end - i, set1(0.0f));
      store(tail, v);
      for (int j = 0; i + j < end; j++) p[i + j] = tail[j];
      s = add(s, v);
    }
    *sums++ = reduce_add(s);
  }
}

}  // namespace KERNEL_NS
