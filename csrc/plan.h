// A step as it comes, and how its attention is cut into units. How does not matter to any result, only to the balance
// between threads.
#pragma once
#include <cstdint>
#include <vector>

#include "cache.h"
#include "sampler.h"

struct ModelLimits {
  int num_blocks, block_size, max_num_batched_tokens, max_num_seqs, max_model_len, threads;
};

// One step's arrays, as runner.py's ForwardBatch describes them.
struct Step {
  int num_tokens, num_seqs, table_width, num_logits;
  const int32_t *token_ids, *positions, *slot_mapping, *cu_seqlens_q, *context_lens, *block_tables, *logits_indices;
  std::vector<RowParams> params;  // num_logits
  int32_t* out_ids;
  float* out_logprobs;
  int32_t* out_top_ids;  // (num_logits, top_width), filled with the padding by the caller
  float* out_top_logprobs;
  int top_width;
  float* out_logits;  // (num_logits, V) or null

  const int32_t* block_table(int seq) const { return block_tables + (size_t)seq * table_width; }
};

// Throws std::invalid_argument, naming the array that does not fit.
void check_step(const Step&, const ModelLimits&, int vocab_size);

struct AttendUnit {
  int seq, first_row, num_rows, kv_head, first_span, last_span;
};

// Rows whose attention is computed: all of the step, or those whose logits are asked for.
struct Queries {
  int rows;
  std::vector<int32_t> positions, cu_seqlens;
  std::vector<AttendUnit> units;
};

constexpr int kUnitQueries = 96;  // queries that read a span while it is in the cache

class Plan {
 public:
  Plan(const ModelShape&, const ModelLimits&);

  void make(const Step&, const KvCache&);

  Queries all, asked;
  std::vector<int32_t> asked_rows, head_rows;  // ascending rows of the step; for each row of logits its place there
  bool keys_apart = false, split = false;  // keys are written before attention; spans of one query are shared out
  // Of each thread: offsets in each layer's cache of what it will probably attend to.
  std::vector<std::vector<long>> pieces;

 private:
  void make_units(Queries&, int spans_per_unit) const;
  void foresee(const Step&, const KvCache&);

  const int kv_heads_, group_, threads_;
};
