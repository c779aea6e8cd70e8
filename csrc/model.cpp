#include "model.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

static constexpr int kOwnRows = 2;        // up to this many rows every thread prepares its own copy: no barrier
static constexpr int kPanelRows = 64;     // rows of gate and up kept in the cache between product and activation
static constexpr int kByRows = 192;       // from so many on, products are shared out by rows: those stay with their thread
static constexpr int kUnitQueries = 96;   // queries that read a span while it is in the cache
// Outliers among the inputs of a product (kernels.h) make up most of the error of 8 bits. The first and last layer and
// the head, where errors matter most, have more of them (docs/LOG.md).
static constexpr float kOutlier = 9, kOutlierAtEnds = 3;

static const Kernels& require_kernels(const char* isa) {
  const Kernels* k = find_kernels(isa);
  if (!k) throw std::invalid_argument(std::string("isa '") + isa + "' is unknown or cannot run on this machine.");
  return *k;
}

static void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

float* Model::floats(size_t n) {
  const size_t at = buffer_used_;
  buffer_used_ += (n * sizeof(float) + 63) / 64 * 64;
  return buffers_.data() ? (float*)(buffers_.data() + at) : nullptr;
}

Model::Rows Model::make_rows(int rows) {
  const ModelShape& s = shape();
  const int k = std::max({s.hidden_size, s.intermediate_size, s.query_size()});
  if (!s.quantized()) return {{}, floats((size_t)rows * round_up(k, kLanes))};
  const size_t size = (size_t)rows * k, words = size / sizeof(float);
  int8_t *low = (int8_t*)floats(words), *high = (int8_t*)floats(words);
  return {{low, high, (Inputs::Group*)floats(size / kGroup * sizeof(Inputs::Group) / sizeof(float))}, nullptr};
}

Model::Model(std::shared_ptr<const Weights> weights, const ModelLimits& l, const float* cos, const float* sin,
             const char* isa)
    : limits(l), weights_(std::move(weights)), kernels_(require_kernels(isa)), pool_(std::max(l.threads, 1)) {
  const ModelShape& s = shape();
  require(l.block_size > 0 && l.block_size % kLanes == 0,
          "block_size must be a multiple of 16. Given: " + std::to_string(l.block_size) + ".");
  require(s.head_dim % 2 == 0 && s.head_dim <= 512,
          "head_dim must be even and <= 512. Given: " + std::to_string(s.head_dim) + ".");
#ifdef __GLIBC__
  malloc_trim(0);  // what packing left behind: about 150 MB, which the system could use
#endif
  group_ = s.num_heads / s.num_kv_heads;
  hidden_ld_ = round_up(s.hidden_size, kLanes);
  qkv_ld_ = round_up(s.query_size() + 2 * s.kv_size(), kLanes);
  query_ld_ = round_up(s.query_size(), kLanes);
  mid_ld_ = round_up(s.intermediate_size, kLanes);
  logits_ld_ = round_up(s.vocab_size, kLanes) + kLanes;  // a multiple of 4 KB would put all rows in one cache set
  const int width = round_up(s.head_dim, kLanes);
  const size_t block = kv_block_bytes(s.quantized(), l.block_size, s.head_dim);
  cache_ = Memory(block * l.num_blocks * s.num_kv_heads * s.num_layers, true);
  const size_t table = (size_t)l.max_model_len * s.head_dim / 2;
  tables_ = Memory(2 * table * sizeof(float) + 64, false);
  cos_ = (float*)tables_.data(), sin_ = cos_ + table;
  std::copy(cos, cos + table, cos_);
  std::copy(sin, sin + table, sin_);
  span_stride_ = (l.max_model_len + kSpan - 1) / kSpan;
  scratch_.resize(pool_.size());
  const size_t queries = std::max(kUnitQueries, group_);
  const size_t t = l.max_num_batched_tokens;
  for (int pass = 0; pass < 2; pass++) {  // first counts the bytes, then hands them out
    buffer_used_ = 0;
    x_ = floats(t * hidden_ld_);
    qkv_ = floats(t * qkv_ld_);
    attended_ = floats(t * query_ld_);
    logits_ = floats(t * logits_ld_);
    splits_ = floats((size_t)l.max_num_seqs * s.num_heads * span_stride_ * (width + 2));
    rows_ = make_rows(t);
    mid_rows_ = make_rows(t);
    for (Scratch& c : scratch_) {
      c.rows = make_rows(kOwnRows);
      c.row = floats(std::max({hidden_ld_, mid_ld_, query_ld_}));
      c.panel = floats((size_t)kPanelRows * 12 * kLanes);
      c.queries = floats(queries * width), c.query_scale = floats(queries);
      c.words = (int16_t*)floats(queries * width / 2);
      c.attended = floats(queries * width);
      c.max = floats(queries), c.sum = floats(queries);
      c.visible = (int32_t*)floats(queries);
    }
    if (!pass) buffers_ = Memory(buffer_used_, true);
  }
  for (Scratch& c : scratch_) c.sampler = std::make_unique<Sampler>(kernels_, s.vocab_size);
  stages_ = std::vector<Stage>(16 * s.num_layers + 16);
  const size_t rows_per_unit = std::max(1, kUnitQueries / group_);
  for (Queries* queries : {&all_, &asked_})
    queries->units.reserve((t / rows_per_unit + l.max_num_seqs + 1) * s.num_kv_heads + 8 * pool_.size() +
                           (size_t)l.max_num_seqs * s.num_kv_heads * span_stride_);
}

void Model::check(const Step& s) const {
  auto within = [](const int32_t* v, int n, int low, int high) {
    return std::all_of(v, v + n, [=](int32_t x) { return x >= low && x < high; });
  };
  require(s.num_tokens > 0 && s.num_tokens <= limits.max_num_batched_tokens,
          "token_ids must hold 1 to " + std::to_string(limits.max_num_batched_tokens) +
              " tokens (max_num_batched_tokens). Given: " + std::to_string(s.num_tokens) + ".");
  require(s.num_seqs > 0 && s.num_seqs <= limits.max_num_seqs,
          "context_lens must hold 1 to " + std::to_string(limits.max_num_seqs) +
              " sequences (max_num_seqs). Given: " + std::to_string(s.num_seqs) + ".");
  require(within(s.token_ids, s.num_tokens, 0, shape().vocab_size), "token_ids must be in the vocabulary.");
  require(within(s.positions, s.num_tokens, 0, limits.max_model_len), "positions must be below max_model_len.");
  const long slots = (long)limits.num_blocks * limits.block_size;
  require(within(s.slot_mapping, s.num_tokens, 0, (int)std::min(slots, 0x7fffffffL)),
          "slot_mapping must lie in the cache.");
  require(within(s.logits_indices, s.num_logits, 0, s.num_tokens), "logits_indices must be rows of the step.");
  require(s.cu_seqlens_q[0] == 0 && s.cu_seqlens_q[s.num_seqs] == s.num_tokens,
          "cu_seqlens_q must go from 0 to the number of tokens.");
  for (int q = 0; q < s.num_seqs; q++) {
    const int first = s.cu_seqlens_q[q], last = s.cu_seqlens_q[q + 1], context = s.context_lens[q];
    require(last > first && s.positions[last - 1] == context - 1, "context_lens must end at each last new token.");
    for (int r = first + 1; r < last; r++)
      require(s.positions[r] == s.positions[r - 1] + 1, "positions of one sequence must be consecutive.");
    const int blocks = (context + limits.block_size - 1) / limits.block_size;
    require(blocks <= s.table_width &&
                within(s.block_tables + (size_t)q * s.table_width, blocks, 0, limits.num_blocks),
            "block_tables must name a block for every token of the context.");
  }
}

// Cuts attention into units. How does not matter to any result, only to the balance between threads.
void Model::plan(const Step& s) {
  const int kv_heads = shape().num_kv_heads;
  all_.rows = s.num_tokens;
  all_.positions.assign(s.positions, s.positions + s.num_tokens);
  all_.cu_seqlens.assign(s.cu_seqlens_q, s.cu_seqlens_q + s.num_seqs + 1);
  asked_rows_.assign(s.logits_indices, s.logits_indices + s.num_logits);
  std::sort(asked_rows_.begin(), asked_rows_.end());
  asked_rows_.erase(std::unique(asked_rows_.begin(), asked_rows_.end()), asked_rows_.end());
  auto place = [&](int row) {
    return (int32_t)(std::lower_bound(asked_rows_.begin(), asked_rows_.end(), row) - asked_rows_.begin());
  };
  asked_.rows = (int)asked_rows_.size();
  asked_.positions.clear(), asked_.cu_seqlens.clear(), head_rows_.clear();
  for (int32_t row : asked_rows_) asked_.positions.push_back(s.positions[row]);
  for (int32_t row : all_.cu_seqlens) asked_.cu_seqlens.push_back(place(row));
  for (int i = 0; i < s.num_logits; i++) head_rows_.push_back(place(s.logits_indices[i]));

  const bool has_chunks = s.num_tokens > s.num_seqs;
  long spans = 0;
  for (int q = 0; q < s.num_seqs; q++) spans += (s.context_lens[q] + kSpan - 1) / kSpan;
  split_ = !has_chunks && pool_.size() > 1 && s.num_seqs * kv_heads < 8 * pool_.size() && spans > 2 * s.num_seqs;
  // A chunk's later queries see its earlier keys; a single token's unit writes its own.
  keys_apart_ = has_chunks || split_ || asked_.rows < all_.rows;
  const int part = split_ ? (int)std::max(1L, spans * kv_heads / (8 * pool_.size())) : 1 << 30;
  for (Queries* queries : {&all_, &asked_}) plan_units(*queries, part);
  plan_prefetch();
}

// Each thread fetches, while it computes products, what it will probably attend to in the next layer. The longest rows of a
// chunk see what the others see.
void Model::plan_prefetch() {
  const KvHead first = cache(0, 0);
  const long head = kv_block_bytes(first.integers, first.block_size, first.head_dim);
  for (Scratch& c : scratch_) c.pieces.clear();
  for (size_t i = 0; i < all_.units.size(); i++) {
    const AttendUnit& u = all_.units[i];
    if (u.first_row + u.num_rows != all_.cu_seqlens[u.seq + 1]) continue;
    const Spans s = spans(0, all_, u);
    const int end = std::min(s.positions, s.last * kSpan);
    std::vector<long>& pieces = scratch_[Stage::owner((int)i, (int)all_.units.size(), pool_.size())].pieces;
    for (int b = s.first * kSpan / first.block_size; b * first.block_size < end; b++)
      pieces.push_back(s.block_table[b] * first.block_stride + u.kv_head * head);
  }
}

void Model::prefetch_cache(int layer, Scratch& c) const {
  const KvHead kv = cache(layer, 0);
  c.prefetch = {kv.base, c.pieces.data(), layer < shape().num_layers ? (int)c.pieces.size() : 0,
                kv_block_bytes(kv.integers, kv.block_size, kv.head_dim), nullptr, nullptr};
}

void Model::plan_units(Queries& queries, int part) const {
  const int kv_heads = shape().num_kv_heads, share = queries.rows * kv_heads / (8 * pool_.size());
  const int unit_rows = std::max(1, std::min(round_up(share, 4), kUnitQueries / group_));
  queries.units.clear();
  for (size_t q = 0; q + 1 < queries.cu_seqlens.size(); q++) {
    const int last = queries.cu_seqlens[q + 1];
    for (int begin = queries.cu_seqlens[q], end; begin < last; begin = end) {
      end = std::min(begin + unit_rows, last);
      const int count = (queries.positions[end - 1] + kSpan) / kSpan;
      for (int span = 0; span < count; span += part)
        for (int h = 0; h < kv_heads; h++)
          queries.units.push_back({(int)q, begin, end - begin, h, span, part < count - span ? span + part : count});
    }
  }
}

void Model::forward(const Step& step) {
  check(step);
  step_ = &step;
  plan(step);
  bad_row_ = -1;
  for (Stage& stage : stages_) stage.reset();
  pool_.run([this](int thread) { compute(thread); });
  if (bad_row_ >= 0)
    throw std::runtime_error("logits of row " + std::to_string(bad_row_) + " are not finite: the weights are damaged.");
}

void Model::compute(int thread) {
  const Step& s = *step_;
  int stage = 0;
  stages_[stage++].run(s.num_tokens, place(thread),
                       [&](int r) { weights_->embed(s.token_ids[r], x_ + (size_t)r * hidden_ld_); });
  prefetch_cache(0, scratch_[thread]);
  for (int i = 0; i < shape().num_layers; i++) layer(i, thread, stage);
  if (!s.num_logits) return;
  const ImageMap& map = weights_->map;
  const Rows rows = prepare({x_, hidden_ld_, shape().hidden_size, weights_->vector(map.norm), kOutlierAtEnds,
                             head_rows_.data()},
                            s.num_logits, thread, stage);
  linear(map.head, rows, s.num_logits, logits_, logits_ld_, Then::stream, nullptr, stages_[stage++], thread);
  stages_[stage].run(s.num_logits, place(thread), [&](int r) { sample_row(r, scratch_[thread]); });
}

float Model::outlier_of(int layer) const {
  return layer == 0 || layer == shape().num_layers - 1 ? kOutlierAtEnds : kOutlier;
}

void Model::layer(int index, int thread, int& stage) {
  const LayerMap& l = weights_->map.layers[index];
  const ModelShape& s = shape();
  const Queries& queries = index == s.num_layers - 1 ? asked_ : all_;
  const int rows = queries.rows;
  project(index, thread, stage);
  if (!rows) return;
  Rows in = attention(index, queries, thread, stage);
  prefetch_cache(index + 1, scratch_[thread]);
  linear(l.o, in, rows, x_, hidden_ld_, Then::add, weights_->vector(l.o_bias), stages_[stage++], thread);
  in = prepare({x_, hidden_ld_, s.hidden_size, weights_->vector(l.mlp_norm), outlier_of(index)}, rows, thread, stage);
  gated(l, in, rows, stages_[stage++], thread);
  linear(l.down, mid_rows_, rows, x_, hidden_ld_, Then::add, weights_->vector(l.down_bias), stages_[stage++], thread);
}

// Queries, keys and values. The last layer needs the keys and values of all rows, all else only of those whose logits
// are asked for: from the queries on these are rows 0, 1, ... of x_ and of all that is made from it.
void Model::project(int index, int thread, int& stage) {
  const LayerMap& l = weights_->map.layers[index];
  const ModelShape& s = shape();
  auto product = [&](int rows, Tiles tiles) {
    const Rows in = prepare({x_, hidden_ld_, s.hidden_size, weights_->vector(l.attention_norm), outlier_of(index)}, rows,
                            thread, stage);
    linear(l.qkv, in, rows, qkv_, qkv_ld_, Then::store, weights_->vector(l.qkv_bias), stages_[stage++], thread, tiles);
  };
  const bool narrow = index == s.num_layers - 1 && asked_.rows < all_.rows;
  product(all_.rows, {narrow ? s.query_size() / kLanes : 0, l.qkv.tiles});
  if (keys_apart_) write_keys(index, place(thread), stages_[stage++]);
  if (!narrow || !asked_.rows) return;
  stages_[stage++].run(1, [&](int) {
    for (int i = 0; i < asked_.rows; i++)  // never moves a row down
      std::memmove(x_ + (size_t)i * hidden_ld_, x_ + (size_t)asked_rows_[i] * hidden_ld_, hidden_ld_ * sizeof(float));
  });
  product(asked_.rows, {0, (s.query_size() + kLanes - 1) / kLanes});
}

void Model::prepare_row(const Source& s, const Rows& rows, int row, float* scratch) const {
  const float* x = s.x + (size_t)(s.index ? s.index[row] : row) * s.ldx;
  float* target = shape().quantized() ? scratch : rows.f + (size_t)row * round_up(s.k, kLanes);
  if (s.norm)
    kernels_.rms_norm(x, s.norm, shape().rms_norm_eps, s.k, target);
  else
    std::copy(x, x + s.k, target);
  const int groups = s.k / kGroup;
  if (shape().quantized()) kernels_.quantize(target, groups, rows.outlier, rows.q.from_group((long)row * groups));
}

// Norm (if any) and quantisation of the step's rows, or of those that the source's index names.
Model::Rows Model::prepare(const Source& s, int rows, int thread, int& stage) {
  Scratch& scratch = scratch_[thread];
  Rows out = rows <= kOwnRows ? scratch.rows : rows_;
  out.outlier = s.outlier;
  if (rows <= kOwnRows) {
    if (stages_[stage].finished()) return out;  // this thread comes too late for the product
    for (int r = 0; r < rows; r++) prepare_row(s, out, r, scratch.row);
    return out;
  }
  constexpr int kRows = 4;
  stages_[stage++].run((rows + kRows - 1) / kRows, place(thread), [&](int u) {
    for (int r = u * kRows; r < std::min(u * kRows + kRows, rows); r++) prepare_row(s, out, r, scratch.row);
  });
  return out;
}

void Model::multiply(const Matrix& m, const Rows& in, int rows, float* out, int ldo, Then then, const float* bias,
                     Tiles tiles, Scratch& scratch) const {
  const char* weights = weights_->at(m.offset) + tiles.first * m.tile_bytes(shape().quantized());
  const int count = tiles.last - tiles.first;
  const char* ahead = weights + count * m.tile_bytes(shape().quantized());  // the thread's next unit
  if (shape().quantized())
    kernels_.gemm_q8({(const uint8_t*)weights, m.nibbles, count, m.k / kGroup, in.q, rows, out, ldo, then,
                      (const uint8_t*)ahead, &scratch.prefetch});
  else
    kernels_.gemm_f32({(const float*)weights, count, m.k, in.f, round_up(m.k, kLanes), rows, out, ldo, then});
  if (bias)
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < count * kLanes; i++) out[(size_t)r * ldo + i] += bias[tiles.first * kLanes + i];
}

Model::Rows Model::from_row(const Rows& in, int row, int k) const {
  if (shape().quantized()) return {in.q.from_group((long)row * (k / kGroup)), nullptr, in.outlier};
  return {{}, in.f + (size_t)row * round_up(k, kLanes)};
}

template <class F>
void Model::share_rows(int rows, Stage& stage, int thread, F compute) {
  const int unit = round_up(std::max(16, rows / (8 * pool_.size())), 4);
  stage.run((rows + unit - 1) / unit, place(thread),
            [&](int u) { compute(u * unit, std::min(u * unit + unit, rows)); });
}

void Model::linear(const Matrix& m, const Rows& in, int rows, float* out, int ldo, Then then, const float* bias,
                   Stage& stage, int thread) {
  linear(m, in, rows, out, ldo, then, bias, stage, thread, {0, m.tiles});
}

void Model::linear(const Matrix& m, const Rows& in, int rows, float* out, int ldo, Then then, const float* bias,
                   Stage& stage, int thread, Tiles tiles) {
  Scratch& scratch = scratch_[thread];
  if (rows >= kByRows)
    return share_rows(rows, stage, thread, [&](int begin, int end) {
      multiply(m, from_row(in, begin, m.k), end - begin, out + (size_t)begin * ldo + tiles.first * kLanes, ldo, then,
               bias, tiles, scratch);
    });
  const int step = rows == 1 ? 4 : 3, count = tiles.last - tiles.first;  // the kernels' widest block
  const int unit = round_up(std::max(1, count / (8 * pool_.size())), step);
  stage.run((count + unit - 1) / unit, place(thread), [&](int u) {
    const int t = tiles.first + u * unit;
    multiply(m, in, rows, out + t * kLanes, ldo, then, bias, {t, std::min(t + unit, tiles.last)}, scratch);
  });
}

// SwiGLU of gate and up, quantised for the down projection while it is still in the cache.
void Model::gated(const LayerMap& l, const Rows& in, int rows, Stage& stage, int thread) {
  const int tiles = l.gate_up.tiles, width = rows == 1 ? 4 : 12, parts = (tiles + width - 1) / width;
  auto part = [&](int u, int begin, int end) {
    gated_unit(l, in, begin, end, {u * width, std::min(u * width + width, tiles)}, scratch_[thread]);
  };
  if (rows < kByRows) return stage.run(parts, place(thread), [&](int u) { part(u, 0, rows); });
  share_rows(rows, stage, thread, [&](int begin, int end) {
    for (int u = 0; u < parts; u++) part(u, begin, end);
  });
}

void Model::gated_unit(const LayerMap& l, const Rows& in, int begin, int end, Tiles tiles, Scratch& scratch) {
  const int hidden = shape().hidden_size, k = shape().intermediate_size;
  const int pairs = (tiles.last - tiles.first) / 2, column = tiles.first / 2 * kLanes, ld = 2 * pairs * kLanes;
  const float* bias = weights_->vector(l.gate_up_bias);
  for (int first = begin; first < end; first += kPanelRows) {
    const int part = std::min(kPanelRows, end - first);
    multiply(l.gate_up, from_row(in, first, hidden), part, scratch.panel, ld, Then::store, bias, tiles, scratch);
    for (int r = 0; r < part; r++) {
      const float* row = scratch.panel + r * ld;
      if (!shape().quantized()) {
        kernels_.swiglu(row, pairs, mid_rows_.f + (size_t)(first + r) * mid_ld_ + column);
        continue;
      }
      kernels_.swiglu(row, pairs, scratch.row);
      const Inputs to = mid_rows_.q.from_group(((long)(first + r) * k + column) / kGroup);
      kernels_.quantize(scratch.row, pairs * kLanes / kGroup, in.outlier, to);
    }
  }
}

void Model::sample_row(int row, Scratch& scratch) {
  const Step& s = *step_;
  const float* logits = logits_ + (size_t)row * logits_ld_;
  RowResult result{0, 0, s.out_top_ids + (size_t)row * s.top_width, s.out_top_logprobs + (size_t)row * s.top_width};
  if (!scratch.sampler->sample(logits, s.params[row], result)) bad_row_ = row;
  s.out_ids[row] = result.token;
  s.out_logprobs[row] = result.logprob;
  if (s.out_logits) std::copy(logits, logits + shape().vocab_size, s.out_logits + (size_t)row * shape().vocab_size);
}
