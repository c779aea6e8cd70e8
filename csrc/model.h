// The forward pass of one flattened batch over a paged cache.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "sampler.h"
#include "weights.h"

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
};

class Model {
 public:
  // cos, sin: (max_model_len, head_dim / 2). Throws std::invalid_argument where shape or limits cannot be run.
  Model(std::shared_ptr<const Weights>, const ModelLimits&, const float* cos, const float* sin, const char* isa);

  // Throws std::invalid_argument for arrays that do not fit the limits, std::runtime_error for logits that are not finite.
  void forward(const Step&);

  const char* isa() const { return kernels_.isa; }
  const ModelLimits limits;
  const ModelShape& shape() const { return weights_->shape; }

 private:
  struct Rows {  // of inputs of a matrix product: as integers, or as floats
    Inputs q;
    float* f;
    float outlier = 0;  // by which they were rounded (kernels.h)
  };
  struct Tiles {  // of a matrix
    int first, last;
  };
  struct Source {  // what prepare turns into Rows
    const float* x;
    int ldx, k;
    const float* norm;  // null: none
    float outlier;
    const int32_t* index = nullptr;  // null: all rows in order
  };
  struct Scratch {  // one thread's
    Rows rows;
    float *row, *panel, *queries, *query_scale, *attended, *max, *sum;
    int16_t* words;
    int32_t* visible;
    std::unique_ptr<Sampler> sampler;
    std::vector<long> pieces;  // offsets in each layer's cache of what this thread is likely to attend to
    Prefetch prefetch;
  };
  struct AttendUnit {
    int seq, first_row, num_rows, kv_head, first_span, last_span;
  };
  // Rows whose attention is computed: all of the step, or those whose logits are asked for.
  struct Queries {
    int rows;
    std::vector<int32_t> positions, cu_seqlens;
    std::vector<AttendUnit> units;
  };

  Place place(int thread) const { return {thread, pool_.size()}; }
  void check(const Step&) const;
  void plan(const Step&);
  void plan_units(Queries&, int spans_per_unit) const;
  void plan_prefetch();
  void prefetch_cache(int layer, Scratch&) const;
  void compute(int thread);
  float outlier_of(int layer) const;
  void layer(int index, int thread, int& stage);
  void project(int index, int thread, int& stage);
  Rows prepare(const Source&, int rows, int thread, int& stage);
  void prepare_row(const Source&, const Rows&, int row, float* scratch) const;
  void multiply(const Matrix&, const Rows&, int rows, float* out, int ldo, Then, const float* bias, Tiles, Scratch&) const;
  void linear(const Matrix&, const Rows&, int rows, float* out, int ldo, Then, const float* bias, Stage&, int thread);
  void linear(const Matrix&, const Rows&, int rows, float* out, int ldo, Then, const float* bias, Stage&, int thread,
              Tiles);
  Rows from_row(const Rows&, int row, int k) const;
  template <class F>
  void share_rows(int rows, Stage&, int thread, F compute);  // compute(begin, end)
  void gated(const LayerMap&, const Rows& in, int rows, Stage&, int thread);
  void gated_unit(const LayerMap&, const Rows& in, int begin, int end, Tiles, Scratch&);
  const float* head_norm(const float* x, size_t weight, float* normed) const;
  void rotate_keys(int layer, int row, int kv_head);
  void write_keys(int layer, Place, Stage&);
  Rows attention(int layer, const Queries&, int thread, int& stage);
  void attend_unit(int layer, const Queries&, const AttendUnit&, const AttendUnit& next, Scratch&);
  Spans spans(int layer, const Queries&, const AttendUnit&) const;
  void merge_splits(int layer, const Queries&, int row, int head, Scratch&);
  bool attended_at_once() const;
  void put_attended(int layer, int row, int head, int heads, const float* results, const float* sums, float* scratch);
  KvHead cache(int layer, int kv_head) const;
  void sample_row(int row, Scratch&);

  float* floats(size_t n);
  Rows make_rows(int rows);

  const std::shared_ptr<const Weights> weights_;
  const Kernels& kernels_;
  Pool pool_;
  int hidden_ld_, qkv_ld_, query_ld_, mid_ld_, logits_ld_, group_;  // row strides; query heads per kv head
  Memory cache_, buffers_, tables_;
  size_t buffer_used_ = 0;
  float *x_, *qkv_, *attended_, *logits_, *cos_, *sin_, *splits_;
  Rows rows_, mid_rows_;
  std::vector<Scratch> scratch_;
  std::vector<Stage> stages_;
  Queries all_, asked_;
  std::vector<int32_t> asked_rows_, head_rows_;  // ascending rows of the step; for each row of logits its place there
  const Step* step_ = nullptr;
  bool keys_apart_ = false, split_ = false;  // keys are written before attention; spans of one query are shared out
  int span_stride_ = 0;
  std::atomic<int> bad_row_{-1};
};
