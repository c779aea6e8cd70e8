// The model's attention: rotary embedding, the cache, and how a step's queries are shared out.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"

KvHead Model::cache(int layer, int kv_head) const {
  const ModelShape& s = shape();
  const long head = kv_block_bytes(s.quantized(), limits.block_size, s.head_dim), heads = (long)s.num_kv_heads * s.num_layers;
  // All layers of a block lie together: memory is touched, and grows, block by block.
  return {cache_.data() + ((long)layer * s.num_kv_heads + kv_head) * head, head * heads, limits.block_size, s.head_dim,
          s.quantized()};
}

static void write_floats(const KvHead& kv, char* block, int offset, const float* key, const float* value) {
  const int d = kv.head_dim, width = round_up(d, kLanes);
  float* keys = (float*)block + (long)(offset / kLanes * kLanes) * d + offset % kLanes;
  float* values = (float*)block + (long)kv.block_size * d + (long)offset * width;
  for (int i = 0; i < d; i++) keys[i * kLanes] = key[i], values[i] = value[i];
}

// key, value: padded to 16 with zeros.
static void write_integers(const Kernels& kernels, const KvHead& kv, char* block, int offset, const float* key,
                           const float* value) {
  const int d = kv.head_dim, width = round_up(d, kLanes), lane = offset % kLanes;
  char* values = block + 2L * kv.block_size * d;
  float* scales = (float*)(values + (long)kv.block_size * width) + offset;
  int16_t words[512];
  scales[0] = kernels.round_row(key, width, kKeyLimit, words);
  char* to = block + 2L * (offset - lane) * d + lane * 4;
  for (int i = 0; i < d; i += 2) std::memcpy(to + i / 2 * kLanes * 4, words + i, 4);
  scales[kv.block_size] = kernels.round_row(value, width, kValueLimit, words);
  int8_t* bytes = (int8_t*)values + (long)(offset - offset % 2) * width + offset % 2;
  for (int i = 0; i < width; i++) bytes[2 * i] = (int8_t)words[i];
}

// The norm of one head, where the model has it: x itself, or `normed`, which is padded to 16.
const float* Model::head_norm(const float* x, size_t weight, float* normed) const {
  if (weight == kAbsent) return x;
  const int d = shape().head_dim;
  float padded[512] = {};
  std::copy(x, x + d, padded);
  kernels_.rms_norm(padded, weights_->vector(weight), shape().rms_norm_eps, d, normed);
  return normed;
}

void Model::rotate_keys(int layer, int row, int kv_head) {
  const ModelShape& s = shape();
  const int half = s.head_dim / 2, slot = step_->slot_mapping[row];
  const size_t angle = (size_t)step_->positions[row] * half;
  const float* qkv = qkv_ + (size_t)row * qkv_ld_;
  const float* key = qkv + s.query_size() + kv_head * s.head_dim;
  float rotated[512], value[512], normed[512];  // padded to 16 with zeros
  kernels_.rope(head_norm(key, weights_->map.layers[layer].key_norm, normed), cos_ + angle, sin_ + angle, half, 1.0f, rotated);
  std::copy(key + s.kv_size(), key + s.kv_size() + s.head_dim, value);
  for (int i = s.head_dim; i < round_up(s.head_dim, kLanes); i++) rotated[i] = value[i] = 0;
  const KvHead kv = cache(layer, kv_head);
  char* block = kv.base + slot / kv.block_size * kv.block_stride;
  kv.integers ? write_integers(kernels_, kv, block, slot % kv.block_size, rotated, value)
              : write_floats(kv, block, slot % kv.block_size, rotated, value);
}

void Model::write_keys(int layer, Place place, Stage& stage) {
  constexpr int kRows = 8;
  const int kv_heads = shape().num_kv_heads, rows = step_->num_tokens;
  stage.run((rows + kRows - 1) / kRows, place, [&](int u) {
    for (int r = u * kRows; r < std::min(u * kRows + kRows, rows); r++)
      for (int h = 0; h < kv_heads; h++) rotate_keys(layer, r, h);
  });
}

// Returns the inputs of the output projection.
Model::Rows Model::attention(int layer, const Queries& queries, int thread, int& stage) {
  Scratch& scratch = scratch_[thread];
  const std::vector<AttendUnit>& units = queries.units;
  stages_[stage++].run((int)units.size(), place(thread), [&](int u) {
    attend_unit(layer, queries, units[u], units[std::min<size_t>(u + 1, units.size() - 1)], scratch);
  });
  const int heads = shape().num_heads;
  if (split_)
    stages_[stage++].run(queries.rows * heads, place(thread),
                         [&](int i) { merge_splits(layer, queries, i / heads, i % heads, scratch); });
  if (attended_at_once()) return rows_;
  return prepare({attended_, query_ld_, shape().query_size(), nullptr, outlier_of(layer)}, queries.rows, thread, stage);
}

// Whether a head's results are rounded as soon as they are there, by the thread that has them in its cache.
bool Model::attended_at_once() const { return shape().quantized() && shape().head_dim % kGroup == 0; }

// Divides some heads' results of one row by their sums and stores them.
void Model::put_attended(int layer, int row, int head, int heads, const float* results, const float* sums,
                         float* scratch) {
  const int d = shape().head_dim, width = round_up(d, kLanes);
  float* to = attended_at_once() ? scratch : attended_ + (size_t)row * query_ld_ + head * d;
  for (int i = 0; i < heads; i++) kernels_.finish(results + i * width, sums[i], d, to + i * d);
  if (!attended_at_once()) return;
  const long group = ((long)row * shape().num_heads + head) * d / kGroup;
  kernels_.quantize(scratch, heads * d / kGroup, outlier_of(layer), rows_.q.from_group(group));
}

Spans Model::spans(int layer, const Queries& queries, const AttendUnit& u) const {
  return {cache(layer, u.kv_head), step_->block_tables + (size_t)u.seq * step_->table_width, u.first_span, u.last_span,
          queries.positions[u.first_row + u.num_rows - 1] + 1};
}

// next: what this thread is likely to compute after u.
void Model::attend_unit(int layer, const Queries& queries, const AttendUnit& u, const AttendUnit& next, Scratch& c) {
  const ModelShape& s = shape();
  const int d = s.head_dim, half = d / 2, width = round_up(d, kLanes);
  const float scale = 1.44269504f / std::sqrt((float)d);  // times log2(e): the softmax is made of powers of 2
  if (!keys_apart_) rotate_keys(layer, u.first_row, u.kv_head);
  for (int r = 0; r < u.num_rows; r++) {
    const int row = u.first_row + r, position = queries.positions[row];
    const size_t angle = (size_t)position * half;
    // Rows lie too far apart for the processor to foresee them.
    const float* later = qkv_ + (size_t)std::min(row + 2, queries.rows - 1) * qkv_ld_ + u.kv_head * group_ * d;
    for (int i = 0; i < group_ * d; i += kLanes) __builtin_prefetch(later + i);
    for (int g = 0; g < group_; g++) {
      const int i = r * group_ + g;
      float* query = c.queries + (size_t)i * width;
      const float* from = qkv_ + (size_t)row * qkv_ld_ + (u.kv_head * group_ + g) * d;
      float normed[512];
      kernels_.rope(head_norm(from, weights_->map.layers[layer].query_norm, normed), cos_ + angle, sin_ + angle, half,
                    scale, query);
      if (s.quantized()) c.query_scale[i] = kernels_.round_row(query, width, query_limit(d), c.words + (size_t)i * width);
      c.visible[i] = position + 1;
    }
  }
  const Spans next_spans = spans(layer, queries, next);
  Attend a{spans(layer, queries, u), next_spans, c.queries, c.words, c.query_scale, c.visible, u.num_rows * group_,
           c.attended, c.max, c.sum};
  if (split_) {
    for (int span = u.first_span; span < u.last_span; span++) {
      a.spans.first = span, a.spans.last = span + 1;
      a.next = a.spans, a.next.first = span + 1;
      if (span + 1 == u.last_span) a.next = next_spans;
      kernels_.attend(a);
      for (int g = 0; g < group_; g++) {
        const size_t head = (size_t)u.first_row * s.num_heads + u.kv_head * group_ + g;
        float* part = splits_ + (head * span_stride_ + span) * (width + 2);
        std::copy(c.attended + g * width, c.attended + (g + 1) * width, part);
        part[width] = c.max[g], part[width + 1] = c.sum[g];
      }
    }
    return;
  }
  kernels_.attend(a);
  for (int r = 0; r < u.num_rows; r++) {
    const size_t i = (size_t)r * group_;
    put_attended(layer, u.first_row + r, u.kv_head * group_, group_, c.attended + i * width, c.sum + i, c.row);
  }
}

// Adds the spans of one head in the order in which attend itself would have.
void Model::merge_splits(int layer, const Queries& queries, int row, int head, Scratch& c) {
  const int d = shape().head_dim, width = round_up(d, kLanes);
  const int spans = (queries.positions[row] + kSpan) / kSpan;
  const float* part = splits_ + ((size_t)row * shape().num_heads + head) * span_stride_ * (width + 2);
  std::copy(part, part + width, c.attended);
  float max = part[width], sum = part[width + 1];
  for (int i = 1; i < spans; i++) {
    part += width + 2;
    kernels_.merge(c.attended, &max, &sum, part, part[width], part[width + 1], width);
  }
  put_attended(layer, row, head, 1, c.attended, &sum, c.row);
}
