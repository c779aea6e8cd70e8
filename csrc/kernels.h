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

// out[row][tile * 16 + i] (+)= sum over groups g of scale * (q . a) * a_scale + min * a_sum, g ascending.
// Tile: groups x { u8 q[8][16][4], half scale[16], half min[16] }, or with nibbles u8 q[4][16][4], whose high halves are
// q[4] to q[7]. scales: per row and group { a_scale, a_scale * sum a }. Row of a: groups x 32 values, or if fine
// groups x { 32 high parts, 32 low parts }: a is then 128 times the first plus the second.
struct GemmQ8 {
  const uint8_t* tiles;
  bool nibbles, fine;
  int num_tiles, groups;
  const int8_t* a;
  const float* scales;
  int rows;
  float* out;
  int ldo;
  bool add;
  const uint8_t* ahead;  // tiles that this thread is likely to multiply next: fetched meanwhile, perhaps beyond the end

  long a_step() const { return fine ? 2 * kGroup : kGroup; }  // from group to group
  const int8_t* a_row(int row) const { return a + row * groups * a_step(); }
  const float* scales_row(int row) const { return scales + 2L * row * groups; }
};

// out[row][tile * 16 + i] (+)= sum over k of w[tile][k][i] * a[row][k], k ascending in one chain of fused operations.
struct GemmF32 {
  const float* tiles;
  int num_tiles, k;
  const float* a;
  int lda, rows;
  float* out;
  int ldo;
  bool add;
};

// One kv head's cache in one layer. Block b: keys [P / 16][D][16] at b * block_stride, then values [P][round_up(D, 16)].
struct KvHead {
  void* base;
  long block_stride;  // elements
  int block_size, head_dim;
  bool bf16;
};

// Attention of queries over the spans [first_span, last_span). q: (num_queries, D), scaled. visible[i]: positions that
// query i sees. Partial results, one per query: out (round_up(D, 16)) not yet divided by its sum, max and sum.
struct Attend {
  KvHead kv;
  const int32_t* block_table;
  const float* q;
  const int32_t* visible;
  int num_queries, first_span, last_span;
  float *out, *max, *sum;
  float* scratch;  // attend_scratch(D) floats
};

constexpr long attend_scratch(int head_dim) { return 8L * kSpan + kSpan * (head_dim + round_up(head_dim, 16)); }

struct Kernels {
  const char* isa;
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);  // rows padded to 16 with zeros
  void (*quantize)(const float* x, int groups, int8_t* q, float* scales);
  void (*quantize_fine)(const float* x, int groups, int8_t* q, float* scales);  // 15 bits
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
