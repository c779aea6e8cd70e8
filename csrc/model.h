// The forward pass of one flattened batch over a paged cache.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "cache.h"
#include "kernels.h"
#include "plan.h"
#include "pool.h"
#include "sampler.h"
#include "weights.h"

// Tensors by what they do. Null for what the model does not have.
struct Projection {
  const Tensor* weight;
  const float* bias;
};

struct Layer {
  Layer(const Weights&, int index);
  const float *attention_norm, *mlp_norm, *query_norm, *key_norm;
  Projection query, key, value, output, gate, up, down;
};

class Model {
 public:
  // cos, sin: (max_model_len, head_dim / 2). Throws std::invalid_argument where shape or limits cannot be run.
  Model(std::shared_ptr<const Weights>, const ModelShape&, const ModelLimits&, const float* cos, const float* sin,
        const char* isa);

  // Throws std::invalid_argument for arrays that do not fit the limits, std::runtime_error for logits that are not finite.
  void forward(const Step&);

  const KvCache& cache() const { return cache_; }
  const char* isa() const { return kernels_.isa; }
  const ModelLimits limits;
  const ModelShape shape;

 private:
  struct Rows {  // of inputs of a product: as integers, or as floats
    Inputs q;
    float* f;
    int k;  // of a row
  };
  struct Source {  // what prepare turns into Rows
    const float* x;
    int ldx, k;
    const float* norm;     // null: none
    const int32_t* order;  // in which the product takes its inputs; null: as they are
    float outlier;         // by which they are rounded (kernels.h)
    const int32_t* index = nullptr;  // null: all rows in order
  };
  struct Output {
    float* data;
    int ld;
    Then then;
  };
  struct Part {  // one of the matrices that are multiplied with the same rows, and the column of its results
    const Projection* of;
    int column;
  };
  struct Scratch {  // one thread's
    Rows rows;
    float *row, *ordered, *panel, *queries, *query_scale, *attended, *max, *sum;
    int16_t* words;
    int32_t* visible;
    std::unique_ptr<Sampler> sampler;
    Prefetch prefetch;
  };
  // One thread on its way through a step: all threads take the same stages in the same order.
  struct Worker {
    Place place;
    Stage* next;
    Scratch& scratch;

    Stage& stage() { return *next++; }
    template <class F>
    void share(int units, F compute) {
      stage().run(units, place, compute);
    }
  };

  void compute(int thread);
  void prefetch_cache(int layer, Worker&) const;
  float outlier_of(int layer) const;
  void layer(int index, Worker&);
  void project(int index, Worker&);
  void feed_forward(int index, int rows, Worker&);
  Rows prepare(const Source&, int rows, Worker&);
  void prepare_row(const Source&, const Rows&, int row, Scratch&) const;
  Rows from_row(const Rows&, int row) const;
  void multiply(const Projection&, const Rows&, int rows, Output, int first_tile, int last_tile, Scratch&) const;
  void linear(const std::vector<Part>&, const Rows&, int rows, Output, Worker&);
  void gated(const Layer&, const Rows&, int rows, Worker&);
  void gated_unit(const Layer&, const Rows&, int begin, int end, int first_tile, int last_tile, Scratch&);
  template <class F>
  void share_products(int tiles, int most_tiles, int rows, Worker&, F compute);  // compute(begin, end, tile, tile)

  const float* head_norm(const float* x, const float* weight, float* normed) const;
  void rotate_keys(int layer, int row, int kv_head);
  void rotate_queries(int layer, const Queries&, const AttendUnit&, Scratch&) const;
  Rows attention(int layer, const Queries&, Worker&);
  void attend_unit(int layer, const Queries&, const AttendUnit&, const AttendUnit& next, Scratch&);
  long split_size() const;
  float* split(int row, int kv_head, int span) const;
  Spans spans(int layer, const Queries&, const AttendUnit&) const;
  void merge_splits(const Queries&, int row, int head, Scratch&);
  void put_attended(int row, int head, int heads, const float* results, const float* sums) const;
  void sample_row(int row, Scratch&);

  float* floats(size_t n);
  Rows make_rows(int rows);
  void make_buffers();

  const std::shared_ptr<const Weights> weights_;
  const Kernels& kernels_;
  const bool quantized_;
  Pool pool_;
  std::vector<Layer> layers_;
  const Tensor* embedding_;
  const float* norm_;
  Projection head_;
  int hidden_ld_, key_at_, value_at_, qkv_ld_, query_ld_, mid_ld_, logits_ld_;  // columns and row strides
  KvCache cache_;
  Memory buffers_, tables_;
  size_t buffer_used_ = 0;
  float *x_, *qkv_, *attended_, *mid_, *logits_, *cos_, *sin_, *splits_;
  Rows rows_;
  std::vector<Scratch> scratch_;
  std::vector<Stage> stages_;
  Plan plan_;
  const Step* step_ = nullptr;
  int span_stride_ = 0;
  std::atomic<int> bad_row_{-1};
};
