// Row kernels written once over the 16-lane vectors of vec_*.h, compiled once per instruction set.
#pragma once
#include "gemm_shared.h"

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

// 2^x for x <= 0: relative error below 8e-8, exactly 1 at 0, exactly 0 below -125.
inline F exp2_lanes(F x) {
  const I n = round_int(x);
  const F r = sub(x, to_float(n));
  F p = set1(1.5353362e-4f);
  p = fma(p, r, set1(1.33988739e-3f));
  p = fma(p, r, set1(9.61843692e-3f));
  p = fma(p, r, set1(5.55033237e-2f));
  p = fma(p, r, set1(0.240226477f));
  p = fma(p, r, set1(0.693147182f));
  p = fma(p, r, set1(1.0f));
  p = as_float(iadd(bits(p), shift_left<23>(n)));
  return select_lt(x, set1(-125.0f), set1(0.0f), p);
}

inline float exp2_one(float x) {
  float lane[16];
  store(lane, exp2_lanes(set1(x)));
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

inline F magnitude(F a) { return as_float(iand(bits(a), iset1(0x7fffffff))); }

inline float number(int32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

struct Rounding {  // of values to integers, `largest` for `top`
  float scale, inverse;

  Rounding(float top, float largest) {
    const bool zero = top < 1e-30f;
    scale = zero ? 0.0f : top / largest, inverse = zero ? 0.0f : largest / top;
  }

  // The bits of the largest magnitude: compared as integers, a NaN is larger than every number, so it reaches the scale
  // and then the logits.
  Rounding(int32_t top, float largest) : Rounding(number(top), largest) {}
};

// The low or high parts of 32 inputs, and their sums.
inline uint8_t store_parts(int8_t* to, I u, I v, Pair<int16_t>& of16, int16_t& of32) {
  of16 = {(int16_t)reduce_iadd(u), (int16_t)reduce_iadd(v)};
  of32 = of16.even + of16.odd;
  return store_bytes(to, u, v);
}

inline I high_part(I a) { return round_int(mul(to_float(a), set1(1.0f / 255))); }  // never half-way: 255 is odd

static void quantize_block(const float* x, int n, float outlier, int8_t* low, int8_t* high, Inputs::Block& to) {
  F sum = set1(0.0f);
  I most = iset1(0);
  for (int i = 0; i < n; i += 16) {
    const F m = magnitude(load(x + i));
    sum = add(sum, m), most = imax(most, bits(m));
  }
  const float bound = reduce_add(sum) * (outlier / (float)n);
  float top = number(reduce_imax(most));
  const bool has_outliers = top > bound;
  if (has_outliers) {
    const F limit = set1(bound), none = set1(0.0f);
    F rest = none;
    for (int i = 0; i < n; i += 16) {
      const F m = magnitude(load(x + i));
      rest = max(select_lt(m, limit, m, none), rest);
    }
    const float largest = reduce_max(rest), least = top * (1.0f / 256);  // two parts hold 127 * 256
    top = largest > least ? largest : least;
  }
  const Rounding r(top, 127.0f);
  to = {};
  to.scale = r.scale;
  for (int g = 0; g < n / kGroup; g++) {
    I a = round_int(mul(load(x + g * kGroup), set1(r.inverse)));
    I b = round_int(mul(load(x + g * kGroup + 16), set1(r.inverse)));
    to.sum[g] = (float)reduce_iadd(iadd(a, b));
    if (has_outliers) {
      const I c = high_part(a), d = high_part(b);
      a = iadd(isub(a, shift_left<8>(c)), c), b = iadd(isub(b, shift_left<8>(d)), d);
      to.marks |= (uint64_t)store_parts(high + g * kGroup, c, d, to.high16[g], half_of(to.high32, g)) << 8 * g;
    }
    store_parts(low + g * kGroup, a, b, to.low16[g], half_of(to.low32, g));
  }
}

static void quantize(const float* x, float outlier, Inputs to) {
  for (int i = 0, block = 0; i < to.k; i += kBlock, block++)
    quantize_block(x + i, to.k - i < kBlock ? to.k - i : kBlock, outlier, to.low + i, to.high + i, to.block[block]);
}

// Rounds n values, a multiple of 16, to integers up to `largest`, and returns what one of them stands for.
static float round_row(const float* x, int n, float largest, int16_t* words) {
  I top = iset1(0);
  for (int i = 0; i < n; i += 16) top = imax(top, bits(magnitude(load(x + i))));
  const Rounding r(reduce_imax(top), largest);
  for (int i = 0; i < n; i += 16) store_words(words + i, round_int(mul(load(x + i), set1(r.inverse))));
  return r.scale;
}

template <int stride>
struct Signs {
  float lane[16] = {};
  constexpr Signs() { for (int i = 0; i < 16; i++) lane[i] = i & stride ? -1.0f : 1.0f; }
};

// In each pair of lanes `stride` apart: their sum, and their difference.
template <int stride>
inline F butterfly(F x) {
  static constexpr Signs<stride> signs;
  return fma(x, load(signs.lane), swap<stride>(x));
}

static void hadamard(float* x, int head_dim) {
  const int size = hadamard_size(head_dim);
  for (int i = 0; i < head_dim; i += 16) {
    F v = butterfly<1>(load(x + i));
    if (size > 2) v = butterfly<2>(v);
    if (size > 4) v = butterfly<4>(v);
    if (size > 8) v = butterfly<8>(v);
    store(x + i, v);
  }
  for (int stride = 16; stride < size; stride *= 2)
    for (int i = 0; i < head_dim; i += 16) {
      if (i & stride) continue;
      const F a = load(x + i), b = load(x + i + stride);
      store(x + i, add(a, b)), store(x + i + stride, sub(a, b));
    }
}

static void swiglu(const float* gate, const float* up, int n, float* out) {
  const F one = set1(1.0f), zero = set1(0.0f);
  for (int i = 0; i < n; i += 16) {
    const F g = load(gate + i);
    store(out + i, mul(div(g, add(one, exp_lanes(sub(zero, g)))), load(up + i)));
  }
}

static void rope(const float* x, const float* cos, const float* sin, int half, float scale, float* out) {
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    const F a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(out + i, mul(fma(sub(set1(-0.0f), b), s, mul(a, c)), set1(scale)));
    store(out + half + i, mul(fma(a, s, mul(b, c)), set1(scale)));
  }
  for (; i < half; i++) {
    const float a = x[i], b = x[i + half];
    out[i] = __builtin_fmaf(-b, sin[i], a * cos[i]) * scale;
    out[i + half] = __builtin_fmaf(a, sin[i], b * cos[i]) * scale;
  }
}

constexpr int kFewRows = 3;  // up to so many, memory is the limit: `next` is fetched meanwhile

// To the second-level cache: the first holds no two spans.
inline void fetch_later(const void* p) { __builtin_prefetch(p, 0, 2); }

// acc[q][j] = acc + sum over k of a[q][k] * b[j][k], one chain per element whatever the block it is computed in.
// Floats, or pairs of integers: then the sums are exact.
template <int Q, int N, class A, class B, class Acc>
inline void block_product(const A* a, long lda, int k, const B* const* b, const B* const* next, int ldb,
                          Acc (&acc)[Q][N]) {
  for (int i = 0; i < k; i++) {
    if (Q <= kFewRows)
      for (int j = 0; j < N; j++) fetch_later(next[j] + (long)i * ldb);
    decltype(load(b[0])) w[N];
    for (int j = 0; j < N; j++) w[j] = load(b[j] + (long)i * ldb);
    for (int q = 0; q < Q; q++) {
      const auto v = broadcast(a + q * lda + i);
      for (int j = 0; j < N; j++) acc[q][j] = fma(v, w[j], acc[q][j]);
    }
  }
}

template <class B>
constexpr int kRows = sizeof(B) < 4 ? kByteQueries : kQueryBlock;
template <class B>
constexpr int kColumns = sizeof(B) < 4 ? kByteLanes : kLaneBlock;

// c[q][16 j ...] = sum over k, which is cut into pieces of `step`: column j of piece i begins at b[i * stride + j].
template <class A, class B, class C>
struct Product {
  const A* a;
  long lda;
  int k, step;
  const B* const *b, *const *next;  // next: as b, what is wanted afterwards
  int stride, ldb;
  C* c;
  long ldc;
};

template <int Q, int N, class A, class B, class C>
static void product(const Product<A, B, C>& p, int column) {
  const C zeros[16] = {};
  decltype(load(zeros)) acc[Q][N];
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) acc[q][j] = load(zeros);
  const B *const *b = p.b + column, *const *next = p.next + column;
  for (int i = 0; i < p.k; i += p.step, b += p.stride, next += p.stride)
    block_product<Q, N>(p.a + i, p.lda, p.k - i < p.step ? p.k - i : p.step, b, next, p.ldb, acc);
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) store(p.c + q * p.ldc + 16 * (column + j), acc[q][j]);
}

template <int Q, class A, class B, class C>
static void product_row_block(const Product<A, B, C>& p, int n) {
  int j = 0;
  for (; j + kColumns<B> <= n; j += kColumns<B>) product<Q, kColumns<B>>(p, j);
  for (; j < n; j++) product<Q, 1>(p, j);
}

// rows: at most kRows. n: columns of 16.
template <int Q = 0, class A, class B, class C>
static void product_rows(const Product<A, B, C>& p, int rows, int n) {
  if constexpr (Q < kRows<B>) {
    if (rows > Q + 1) return product_rows<Q + 1>(p, rows, n);
    product_row_block<Q + 1>(p, n);
  }
}

template <int Q, int N>
inline void gemm_f32_block(const GemmF32& g, int tile, int row) {
  const float* b[N];
  for (int j = 0; j < N; j++) b[j] = g.tiles + (long)(tile + j) * g.k * 16;
  F acc[Q][N];
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) acc[q][j] = set1(0.0f);
  block_product<Q, N>(g.a + (long)row * g.lda, g.lda, g.k, b, b, 16, acc);
  for (int q = 0; q < Q; q++)
    for (int j = 0; j < N; j++) write(g.out + (long)(row + q) * g.ldo + (tile + j) * 16, acc[q][j], g.then);
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
  end_writes(g.then);
}

// keep, gain: by what the running result and the part that is added to it are multiplied.
inline void merge_by(float keep, float gain, float* out, float* sum, const float* part, float part_sum, int n) {
  for (int i = 0; i < n; i += 16) store(out + i, fma(load(part + i), set1(gain), mul(load(out + i), set1(keep))));
  *sum = __builtin_fmaf(part_sum, gain, *sum * keep);
}

static void merge(float* out, float* max, float* sum, const float* part, float part_max, float part_sum, int n) {
  const float top = part_max > *max ? part_max : *max;
  merge_by(exp2_one(*max - top), exp2_one(part_max - top), out, sum, part, part_sum, n);
  *max = top;
}

static void finish(const float* out, float sum, int n, float* result) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(result + i, div(load(out + i), set1(sum)));
  for (; i < n; i++) result[i] = out[i] / sum;
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

static float masked(const float* x, int n, const uint32_t* mask, float* out) {
  static const int32_t kBit[16] = {1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7,
                                   1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const F none = set1(-__builtin_inff()), half = set1(0.5f);
  const I bit = load(kBit);
  F top = none;
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const int32_t allowed = mask[i / 32] >> i % 32 & 0xffff;
    if (!allowed) {  // of most words of a mask
      store(out + i, none);
      continue;
    }
    const F v = select_lt(to_float(iand(iset1(allowed), bit)), half, none, load(x + i));
    top = max(v, top);
    store(out + i, v);
  }
  float m = reduce_max(top);
  for (; i < n; i++) {
    out[i] = mask[i / 32] >> i % 32 & 1 ? x[i] : -__builtin_inff();
    m = out[i] > m ? out[i] : m;
  }
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
