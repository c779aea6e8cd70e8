// The model's attention: norms of heads, rotary embedding, and how a step's queries are shared out.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"

// The norm of one head, where the model has it: x itself, or `normed`, which is padded to 16.
const float* Model::head_norm(const float* x, const float* weight, float* normed) const {
  if (!weight) return x;
  float padded[kMaxHeadDim] = {};
  std::copy(x, x + shape.head_dim, padded);
  kernels_.rms_norm(padded, weight, shape.rms_norm_eps, shape.head_dim, normed);
  return normed;
}

void Model::rotate_keys(int layer, int row, int kv_head) {
  const int d = shape.head_dim, half = d / 2;
  const size_t angle = (size_t)step_->positions[row] * half;
  const float* key = qkv_ + (size_t)row * qkv_ld_ + key_at_ + kv_head * d;
  const float* from = key - key_at_ + value_at_;
  float rotated[kMaxHeadDim], value[kMaxHeadDim], normed[kMaxHeadDim];  // padded to 16 with zeros
  kernels_.rope(head_norm(key, layers_[layer].key_norm, normed), cos_ + angle, sin_ + angle, half, 1.0f, rotated);
  std::copy(from, from + d, value);
  for (int i = d; i < round_up(d, kLanes); i++) rotated[i] = value[i] = 0;
  if (quantized_) kernels_.hadamard(rotated, d);
  cache_.write(kernels_, layer, kv_head, step_->slot_mapping[row], rotated, value);
}

// Returns the inputs of the output projection.
Model::Rows Model::attention(int layer, const Queries& queries, Worker& w) {
  const std::vector<AttendUnit>& units = queries.units;
  w.share((int)units.size(), [&](int u) {
    attend_unit(layer, queries, units[u], units[std::min<size_t>(u + 1, units.size() - 1)], w.scratch);
  });
  const int heads = shape.num_heads;
  if (plan_.split)
    w.share(queries.rows * heads, [&](int i) { merge_splits(queries, i / heads, i % heads, w.scratch); });
  const int32_t* order = layers_[layer].output.weight->order;
  return prepare({attended_, query_ld_, shape.query_size(), nullptr, order, outlier_of(layer)}, queries.rows, w);
}

// Divides some heads' results of one row by their sums and stores them.
void Model::put_attended(int row, int head, int heads, const float* results, const float* sums) const {
  const int d = shape.head_dim, width = round_up(d, kLanes);
  float* to = attended_ + (size_t)row * query_ld_ + head * d;
  for (int i = 0; i < heads; i++) kernels_.finish(results + i * width, sums[i], d, to + i * d);
}

Spans Model::spans(int layer, const Queries& queries, const AttendUnit& u) const {
  return {cache_.head(layer, u.kv_head), step_->block_table(u.seq), u.first_span, u.last_span,
          queries.positions[u.first_row + u.num_rows - 1] + 1};
}

void Model::rotate_queries(int layer, const Queries& queries, const AttendUnit& u, Scratch& c) const {
  const int d = shape.head_dim, half = d / 2, width = round_up(d, kLanes), group = shape.group();
  // Times log2(e): the softmax is made of powers of 2. And what mixing adds to products is taken back.
  const float scale = 1.44269504f / std::sqrt((float)d) / (float)(quantized_ ? hadamard_size(d) : 1);
  for (int r = 0; r < u.num_rows; r++) {
    const int row = u.first_row + r, position = queries.positions[row];
    const size_t angle = (size_t)position * half;
    // Rows lie too far apart for the processor to foresee them.
    const float* later = qkv_ + (size_t)std::min(row + 2, queries.rows - 1) * qkv_ld_ + u.kv_head * group * d;
    for (int i = 0; i < group * d; i += kLanes) __builtin_prefetch(later + i);
    for (int g = 0; g < group; g++) {
      const int i = r * group + g;
      float *query = c.queries + (size_t)i * width, normed[kMaxHeadDim];
      const float* from = qkv_ + (size_t)row * qkv_ld_ + (u.kv_head * group + g) * d;
      kernels_.rope(head_norm(from, layers_[layer].query_norm, normed), cos_ + angle, sin_ + angle, half, scale, query);
      if (quantized_) {
        kernels_.hadamard(query, d);
        c.query_scale[i] = kernels_.round_row(query, width, kWordLimit, c.words + (size_t)i * width);
      }
      c.visible[i] = position + 1;
    }
  }
}

// next: what this thread is likely to compute after u.
void Model::attend_unit(int layer, const Queries& queries, const AttendUnit& u, const AttendUnit& next, Scratch& c) {
  const int width = round_up(shape.head_dim, kLanes), group = shape.group();
  if (!plan_.keys_apart) rotate_keys(layer, u.first_row, u.kv_head);
  rotate_queries(layer, queries, u, c);
  Attend a{spans(layer, queries, u), spans(layer, queries, next), c.queries, c.words, c.query_scale, c.visible,
           u.num_rows * group, c.attended, c.max, c.sum};
  if (plan_.split) {  // a single row's spans, each by itself
    a.out = split(u.first_row, u.kv_head, u.first_span), a.max = a.out + group * width, a.sum = a.max + group;
    a.apart = split_size();
    return kernels_.attend(a);
  }
  kernels_.attend(a);
  for (int r = 0; r < u.num_rows; r++) {
    const size_t i = (size_t)r * group;
    put_attended(u.first_row + r, u.kv_head * group, group, c.attended + i * width, c.sum + i);
  }
}

// What is kept of one span: the results of a kv head's queries, their maxima and their sums.
long Model::split_size() const { return (long)shape.group() * (round_up(shape.head_dim, kLanes) + 2); }

float* Model::split(int row, int kv_head, int span) const {
  return splits_ + (((size_t)row * shape.num_kv_heads + kv_head) * span_stride_ + span) * split_size();
}

// Adds the spans of one head in the order in which attend itself would have.
void Model::merge_splits(const Queries& queries, int row, int head, Scratch& c) {
  const int width = round_up(shape.head_dim, kLanes), group = shape.group(), g = head % group;
  const int spans = (queries.positions[row] + kSpan) / kSpan;
  const float *part = split(row, head / group, 0), *max_of = part + group * width + g, *sum_of = max_of + group;
  part += g * width;
  std::copy(part, part + width, c.attended);
  float max = *max_of, sum = *sum_of;
  for (int i = 1; i < spans; i++) {
    const long at = i * split_size();
    kernels_.merge(c.attended, &max, &sum, part + at, max_of[at], sum_of[at], width);
  }
  put_attended(row, head, 1, c.attended, &sum);
}
