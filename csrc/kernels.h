// The arithmetic of one step as a table of functions, one table per instruction set.
//
// Every table gives the same bits: integer products are exact, and every float is the result of a fixed chain of
// correctly rounded operations that depends on nothing but its own row.
#pragma once
#include <cstdint>

constexpr int kLanes = 16;     // rows of a weight tile, positions of a key tile
constexpr int kGroup = 32;     // 8-bit values that share a scale
constexpr int kSpan = 128;     // positions whose attention is reduced together, aligned to absolute multiples of itself

// Bytes of one group of one 8-bit tile with its scales and minima. A matrix whose values all fit in 4 bits, as those of
// a checkpoint that was itself quantised do, is stored so: half the memory to read, and the same results.
constexpr int tile_bytes(bool nibbles) { return kLanes * kGroup / (nibbles ? 2 : 1) + 2 * 2 * kLanes; }

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

// Inputs of products as integers a = 256 * high + low. Few have a high part: per group, bit k of the mark says that one
// of the values 4 k to 4 k + 3 has, so only those are multiplied twice.
struct Inputs {
  struct Group {
    float scale, scaled_sum;  // a_scale, and a_scale * sum a
    uint32_t marks;  // NOTE: as bytes of their own, threads that round neighbouring groups would write to one cache line
  };
  int8_t *low, *high;  // 32 a group; high is written only in groups with marks
  Group* group;

  Inputs from_group(long g) const { return {low + g * kGroup, high + g * kGroup, group + g}; }
};

// What becomes of a product's results. Streamed ones go past the caches: nobody reads them soon, `out` and `ldo` are
// aligned to 64 bytes, and the lines they fill need not be fetched first.
enum class Then { store, add, stream };

// out[row][tile * 16 + i] (+)= sum over groups g of scale * (q . a) * a_scale + min * a_sum, g ascending.
// Tile: groups x { u8 q[8][16][4], half scale[16], half min[16] }, or with nibbles u8 q[4][16][4], whose high halves are
// q[4] to q[7].
struct GemmQ8 {
  const uint8_t* tiles;
  bool nibbles;
  int num_tiles, groups;
  Inputs a;
  int rows;
  float* out;
  int ldo;
  Then then;
  const uint8_t* ahead;  // tiles that this thread is likely to multiply next: fetched meanwhile, perhaps beyond the end
  Prefetch* prefetch;    // advanced meanwhile

  Inputs a_row(int row) const { return a.from_group((long)row * groups); }
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
template <class T>
struct Pair {
  T even, odd;
};
constexpr int kKeyLimit = 2047, kValueLimit = 127;
constexpr int at_most_words(int limit) { return limit < 32767 ? limit : 32767; }
constexpr int query_limit(int head_dim) { return at_most_words(0x7fffffff / (head_dim * kKeyLimit)); }
constexpr int kTermLimit = at_most_words(0x7fffffff / (kSpan * kValueLimit));

// One kv head's cache in one layer. W: round_up(D, 16). Block b, at b * block_stride, is of floats: keys [P / 16][D][16],
// values [P][W]. Or of integers: keys int16 [P / 16][D / 2][16][2], values int8 [P / 2][W][2], then the scales as floats
// of keys [P] and of values [P].
struct KvHead {
  char* base;
  long block_stride;  // bytes
  int block_size, head_dim;
  bool integers;
};

constexpr long kv_block_bytes(bool integers, int block_size, int head_dim) {
  const long width = round_up(head_dim, kLanes);
  return block_size * (integers ? 2 * head_dim + width + 8 : 4 * (head_dim + width));
}

// The spans [first, last) of one sequence in one kv head's cache, which holds so many positions of it.
struct Spans {
  KvHead kv;
  const int32_t* block_table;
  int first, last, positions;
};

// Attention of queries over some spans. visible[i]: positions that query i sees. Partial results, one per query: out (W)
// not yet divided by its sum, max and sum.
struct Attend {
  Spans spans, next;  // next: what this thread is likely to attend to next. Its first span is fetched meanwhile
  const float* q;         // (num_queries, W), scaled by log2(e) / sqrt(D)
  const int16_t* q_words; // for integers: the same rounded to query_limit(D), with a scale each
  const float* q_scale;
  const int32_t* visible;
  int num_queries;
  float *out, *max, *sum;
};

struct Kernels {
  const char* isa;
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);  // rows padded to 16 with zeros
  // What is more than `outlier` times the mean magnitude of its group has a high part, and no share in the group's scale.
  void (*quantize)(const float* x, int groups, float outlier, Inputs);
  float (*round_row)(const float* x, int n, float largest, int16_t* words);  // returns the scale
  void (*gemm_q8)(const GemmQ8&);
  void (*gemm_f32)(const GemmF32&);
  void (*swiglu)(const float* gate_up, int pairs, float* out);  // gate and up alternate in tiles of 16
  void (*rope)(const float* x, const float* cos, const float* sin, int half, float scale, float* out);
  void (*attend)(const Attend&);
  // Adds partial results to running ones, in place: both (round_up(D, 16)), max, sum. The first one is copied.
  void (*merge)(float* out, float* max, float* sum, const float* part, float part_max, float part_sum, int n);
  void (*finish)(const float* out, float sum, int n, float* result);  // divides by the sum
  float (*max_value)(const float* x, int n, bool* finite);
  // p = exp((x - max) / temperature); sums[i]: sum of p over block i of kSumBlock.
  void (*softmax_terms)(const float* x, int n, float temperature, float max, float* p, float* sums);
};

constexpr int kSumBlock = 256;

// "auto" takes the best this machine runs. Null for a name that is unknown or cannot run here.
const Kernels* find_kernels(const char* isa);
