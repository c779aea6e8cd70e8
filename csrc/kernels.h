// The arithmetic of one step as a table of functions, one table per instruction set.
//
// Every table gives the same bits: integer products are exact, and every float is the result of a fixed chain of
// correctly rounded operations that depends on nothing but its own row.
#pragma once
#include <cstdint>
#include <vector>

#include "format.h"

constexpr int kSpan = 128;  // positions whose attention is reduced together, aligned to absolute multiples of itself

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory that will be read soon, in pieces of one size: fetched a few lines at a time between products, which leave the
// bus idle from a few rows on.
struct Prefetch {
  const char* base;
  const long* offsets;  // of the pieces
  int pieces;
  long piece_bytes;
  const char *next, *end;  // of the piece at hand

  void fetch() {
    constexpr int kLines = 4;
    if (next >= end) {
      if (!pieces) return;
      next = base + *offsets++, end = next + piece_bytes, pieces--;
    }
    for (int i = 0; i < kLines; i++) __builtin_prefetch(next + i * 64, 0, 2);  // to the second-level cache
    next += kLines * 64;
  }
};

template <class T>
struct Pair {
  T even, odd;
};

// Rows of inputs of products, in blocks of 256 that share a scale (the last one of a row may be shorter). An input is an
// integer a = 255 * high + low, both within 127. Few have a high part: bit l of the marks says that one of the inputs
// 4 l to 4 l + 3 of the block has, so only those lines are multiplied twice.
struct Inputs {
  struct Block {
    float scale;
    uint64_t marks;
    float sum[8];  // of a, for each 32, exactly; what follows: of low and high parts, for each 32 and for each 16
    Pair<int16_t> low32[4], high32[4], low16[8], high16[8];
  };
  int8_t *low, *high;  // k a row; high is written only in blocks with marks
  Block* block;
  int k;

  int blocks() const { return (k + kBlock - 1) / kBlock; }
  Inputs row(int r) const { return {low + (long)r * k, high + (long)r * k, block + (long)r * blocks(), k}; }
};

// What becomes of a product's results. Streamed ones go past the caches: nobody reads them soon, `out` and `ldo` are
// aligned to 64 bytes, and the lines they fill need not be fetched first.
enum class Then { store, add, stream };

// out[row][tile * 16 + i] (+)= sum over the blocks of inputs, ascending, of what a block gives. Integer sums are exact:
//   formats of 256    P = sum of s * u * low, H = sum of s * u * high, T = sum of t * a (or s * a, where u has an offset)
//                     f = fma(fma(H, 255, P), d * a_scale, f), then f = fma(T, -(dm * a_scale), f), dm = offset * d
//   smaller formats   v = u - offset, or u - z
//                     per 32, ascending, p = sum of v * low:  b = fma(p, d, b), and b = fma(sum of a, m, b)
//                     per 32 with marks, h = sum of v * high: c = fma(h, d, c)
//                     f = fma(fma(c, 255, b), a_scale, f)
// Codes of 8 bits, and what a table gives, are signed; the others are not.
struct Gemm {
  const uint8_t* tiles;
  Format format;
  int num_tiles;
  Inputs a;
  int rows;
  float* out;
  int ldo;
  Then then;
  Prefetch* prefetch;  // advanced meanwhile
};

// out[row][tile * 16 + i] (+)= sum over k of w[tile][k][i] * a[row][k], k ascending in one chain of fused operations.
struct GemmF32 {
  const float* tiles;
  int num_tiles, k;
  const float* a;
  int lda, rows;
  float* out;
  int ldo;
  Then then;
};

// The cache of a quantised model holds integers with one scale per position and kv head. Products with them are exact:
// queries and the terms of the softmax are rounded to integers whose sums of products fit in 32 bits.
// Queries and keys are mixed by one Hadamard matrix first, which leaves their products as they are, but for a factor, and
// spreads what is large in few channels over all of them: then 8 bits do for a key.
constexpr int kMaxHeadDim = 512;
constexpr int kCacheLimit = 127, kWordLimit = 32767;  // of keys and values; of queries and terms
static_assert((long)kMaxHeadDim * kCacheLimit * kWordLimit <= 0x7fffffff && kSpan <= kMaxHeadDim);
constexpr int hadamard_size(int head_dim) { return head_dim & -head_dim; }  // the largest power of 2 that divides it

// One kv head's cache in one layer. W: round_up(D, 16). Block b, at b * block_stride, is of floats: keys [P / 16][D][16],
// values [P][W]. Or of integers: keys int8 [P / 16][D / 2][16][2], values int8 [P / 16][W / 16][8][16][2],
// then the scales as floats of keys [P] and of values [P].
struct KvHead {
  char* base;
  long block_stride;  // bytes
  int block_size, head_dim;
  bool integers;
};

constexpr long kv_block_bytes(bool integers, int block_size, int head_dim) {
  const long width = round_up(head_dim, kLanes);
  return block_size * (integers ? head_dim + width + 8 : 4 * (head_dim + width));
}

// The spans [first, last) of one sequence in one kv head's cache, which holds so many positions of it.
struct Spans {
  KvHead kv;
  const int32_t* block_table;
  int first, last, positions;
};

// Attention of queries over some spans. visible[i]: positions that query i sees. Partial results, one per query: out (W)
// not yet divided by its sum, max and sum. Of all spans together, or of each by itself, `apart` floats from one to the next.
struct Attend {
  Spans spans, next;  // next: what this thread is likely to attend to next. Its first span is fetched meanwhile
  const float* q;         // (num_queries, W), scaled by log2(e) / sqrt(D)
  const int16_t* q_words; // for integers: the same mixed and rounded, with a scale each
  const float* q_scale;
  const int32_t* visible;
  int num_queries;
  float *out, *max, *sum;
  long apart = 0;
};

struct Kernels {
  const char* isa;
  int panel_rows;  // among which the unpacking of a block is shared
  int unit_rows;   // the least that are given to a thread, where products are shared out by rows
  int many_rows;   // from so many on: gemm_many
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);  // rows padded to 16 with zeros
  // One row. What is more than `outlier` times the mean magnitude of its block has a high part, and no share in the
  // block's scale.
  void (*quantize)(const float* x, float outlier, Inputs);
  float (*round_row)(const float* x, int n, float largest, int16_t* words);  // returns the scale
  void (*hadamard)(float* x, int head_dim);  // in place, padded to 16 with zeros; the length grows by sqrt(hadamard_size)
  void (*gemm)(const Gemm&), (*gemm_many)(const Gemm&);
  void (*gemm_f32)(const GemmF32&);
  void (*swiglu)(const float* gate, const float* up, int n, float* out);  // n: a multiple of 16
  void (*rope)(const float* x, const float* cos, const float* sin, int half, float scale, float* out);
  void (*attend)(const Attend&);
  // Adds partial results to running ones, in place: both (round_up(D, 16)), max, sum. The first one is copied.
  void (*merge)(float* out, float* max, float* sum, const float* part, float part_max, float part_sum, int n);
  void (*finish)(const float* out, float sum, int n, float* result);  // divides by the sum
  float (*max_value)(const float* x, int n, bool* finite);
  // out = x where the bit is set, else -infinity; returns the largest. In place where out is x.
  float (*masked)(const float* x, int n, const uint32_t* mask, float* out);
  // p = exp((x - max) / temperature); sums[i]: sum of p over block i of kSumBlock.
  void (*softmax_terms)(const float* x, int n, float temperature, float max, float* p, float* sums);
};

constexpr int kSumBlock = 256;

// What this machine runs, best first.
const std::vector<const Kernels*>& available_kernels();
// "auto" is the best. "amx-model" runs everywhere, for tests: many rows on a model of AMX's tile unit. Null for a name that
// is unknown or cannot run here.
const Kernels* find_kernels(const char* isa);
