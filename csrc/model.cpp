#include "model.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <cstring>
#include <stdexcept>

static constexpr int kOwnRows = 2;      // up to this many rows every thread prepares its own copy: no barrier
static constexpr int kGatedTiles = 512; // of one row each: gate and up, kept in the cache from product to activation
static constexpr int kByRows = 192;     // from so many on, products are shared out by rows: those stay with their thread
// Outliers among the inputs of a product (kernels.h) make up most of the error of 8 bits. The first and last layer and
// the head, where errors matter most, have more of them (docs/LOG.md).
static constexpr float kOutlier = 4, kOutlierAtEnds = 2.5f;

static const Kernels& require_kernels(const char* isa) {
  const Kernels* k = find_kernels(isa);
  if (!k) throw std::invalid_argument(std::string("isa '") + isa + "' is unknown or cannot run on this machine.");
  return *k;
}

static const ModelShape& checked(const ModelShape& s, const ModelLimits& l) {
  if (l.block_size <= 0 || l.block_size % kLanes)
    throw std::invalid_argument("block_size must be a multiple of 16. Given: " + std::to_string(l.block_size) + ".");
  if (s.head_dim % 2 || s.head_dim > kMaxHeadDim)
    throw std::invalid_argument("head_dim must be even and <= " + std::to_string(kMaxHeadDim) +
                                ". Given: " + std::to_string(s.head_dim) + ".");
  return s;
}

static const float* vector(const Weights& w, const std::string& place) {
  const Tensor* t = w.find(place);
  return t ? t->vector() : nullptr;
}

static Projection projection(const Weights& w, const std::string& place) {
  return {w.find(place), vector(w, place + "_bias")};
}

// Products that share their inputs must take them in one order.
static void check_orders(std::initializer_list<const Projection*> all) {
  const Tensor& first = *(*all.begin())->weight;
  for (const Projection* p : all) {
    const int32_t *a = first.order, *b = p->weight->order;
    if (a == b || (a && b && std::equal(a, a + first.k, b))) continue;
    throw std::invalid_argument("Queries, keys and values, and gate and up, must have one order of inputs (g_idx) each.");
  }
}

Layer::Layer(const Weights& w, int index) {
  const std::string at = "layers." + std::to_string(index) + ".";
  attention_norm = vector(w, at + "attention_norm"), mlp_norm = vector(w, at + "mlp_norm");
  query_norm = vector(w, at + "query_norm"), key_norm = vector(w, at + "key_norm");
  query = projection(w, at + "query"), key = projection(w, at + "key"), value = projection(w, at + "value");
  output = projection(w, at + "output");
  gate = projection(w, at + "gate"), up = projection(w, at + "up"), down = projection(w, at + "down");
  check_orders({&query, &key, &value}), check_orders({&gate, &up});
}

float* Model::floats(size_t n) {
  const size_t at = buffer_used_;
  buffer_used_ += (n * sizeof(float) + 63) / 64 * 64;
  return buffers_.data() ? (float*)(buffers_.data() + at) : nullptr;
}

Model::Rows Model::make_rows(int rows) {
  const int k = std::max({shape.hidden_size, shape.intermediate_size, shape.query_size()});
  if (!quantized_) return {{}, floats((size_t)rows * round_up(k, kLanes)), k};
  const size_t words = (size_t)rows * k / sizeof(float) + kLanes;
  const size_t blocks = (size_t)rows * ((k + kBlock - 1) / kBlock) * sizeof(Inputs::Block) / sizeof(float);
  int8_t *low = (int8_t*)floats(words), *high = (int8_t*)floats(words);
  return {{low, high, (Inputs::Block*)floats(blocks), k}, nullptr, k};
}

Model::Model(std::shared_ptr<const Weights> weights, const ModelShape& s, const ModelLimits& l, const float* cos,
             const float* sin, const char* isa)
    : limits(l), shape(checked(s, l)), weights_(std::move(weights)), kernels_(require_kernels(isa)),
      quantized_(weights_->quantized()), pool_(std::max(l.threads, 1)), embedding_(weights_->find("embedding")),
      norm_(vector(*weights_, "norm")), head_(projection(*weights_, weights_->find("head") ? "head" : "embedding")),
      cache_(s, quantized_, l.num_blocks, l.block_size), plan_(s, l) {
#ifdef __GLIBC__
  malloc_trim(0);  // what packing left behind: about 150 MB, which the system could use
#endif
  for (int i = 0; i < s.num_layers; i++) layers_.emplace_back(*weights_, i);
  hidden_ld_ = round_up(s.hidden_size, kLanes);
  key_at_ = round_up(s.query_size(), kLanes), value_at_ = key_at_ + round_up(s.kv_size(), kLanes);
  qkv_ld_ = value_at_ + round_up(s.kv_size(), kLanes);
  query_ld_ = round_up(s.query_size(), kLanes);
  mid_ld_ = round_up(s.intermediate_size, kLanes);
  logits_ld_ = round_up(s.vocab_size, kLanes) + kLanes;  // a multiple of 4 KB would put all rows in one cache set
  const size_t table = (size_t)l.max_model_len * s.head_dim / 2;
  tables_ = Memory(2 * table * sizeof(float) + 64, false);
  cos_ = (float*)tables_.data(), sin_ = cos_ + table;
  std::copy(cos, cos + table, cos_);
  std::copy(sin, sin + table, sin_);
  span_stride_ = (l.max_model_len + kSpan - 1) / kSpan;
  scratch_.resize(pool_.size());
  make_buffers();  // counts the bytes
  buffers_ = Memory(buffer_used_, true);
  make_buffers();
  for (Scratch& c : scratch_) c.sampler = std::make_unique<Sampler>(kernels_, s.vocab_size);
  stages_ = std::vector<Stage>(16 * s.num_layers + 16);
}

void Model::make_buffers() {
  const size_t t = limits.max_num_batched_tokens, queries = std::max(kUnitQueries, shape.group());
  const int width = round_up(shape.head_dim, kLanes);
  buffer_used_ = 0;
  x_ = floats(t * hidden_ld_);
  qkv_ = floats(t * qkv_ld_);
  attended_ = floats(t * query_ld_);
  mid_ = floats(t * mid_ld_);
  logits_ = floats(t * logits_ld_);
  splits_ = floats((size_t)limits.max_num_seqs * shape.num_kv_heads * span_stride_ * split_size());
  rows_ = make_rows(t);
  for (Scratch& c : scratch_) {
    c.rows = make_rows(kOwnRows);
    c.row = floats(std::max({hidden_ld_, mid_ld_, query_ld_}));
    c.ordered = floats(std::max({hidden_ld_, mid_ld_, query_ld_}));
    c.panel = floats((size_t)2 * kGatedTiles * kLanes);
    c.queries = floats(queries * width), c.query_scale = floats(queries);
    c.words = (int16_t*)floats(queries * width / 2);
    c.attended = floats(queries * width);
    c.max = floats(queries), c.sum = floats(queries);
    c.visible = (int32_t*)floats(queries);
  }
}

void Model::forward(const Step& step) {
  check_step(step, limits, shape.vocab_size);
  step_ = &step;
  plan_.make(step, cache_);
  bad_row_ = -1;
  for (Stage& stage : stages_) stage.reset();
  pool_.run([this](int thread) { compute(thread); });
  if (bad_row_ >= 0)
    throw std::runtime_error("logits of row " + std::to_string(bad_row_) + " are not finite: the weights are damaged,"
                             " or all ids are masked.");
}

void Model::compute(int thread) {
  const Step& s = *step_;
  Worker w{{thread, pool_.size()}, stages_.data(), scratch_[thread]};
  w.share(s.num_tokens, [&](int r) { embedding_->row(s.token_ids[r], x_ + (size_t)r * hidden_ld_); });
  prefetch_cache(0, w);
  for (int i = 0; i < shape.num_layers; i++) layer(i, w);
  if (!s.num_logits) return;
  const Rows rows = prepare({x_, hidden_ld_, shape.hidden_size, norm_, head_.weight->order, kOutlierAtEnds,
                             plan_.head_rows.data()},
                            s.num_logits, w);
  linear({{&head_, 0}}, rows, s.num_logits, {logits_, logits_ld_, Then::stream}, w);
  w.share(s.num_logits, [&](int r) { sample_row(r, w.scratch); });
}

void Model::prefetch_cache(int layer, Worker& w) const {
  const std::vector<long>& pieces = plan_.pieces[w.place.thread];
  w.scratch.prefetch = {cache_.head(std::min(layer, shape.num_layers - 1), 0).base, pieces.data(),
                        layer < shape.num_layers ? (int)pieces.size() : 0, cache_.head_bytes(), nullptr, nullptr};
}

float Model::outlier_of(int layer) const {
  return layer == 0 || layer == shape.num_layers - 1 ? kOutlierAtEnds : kOutlier;
}

void Model::layer(int index, Worker& w) {
  const Layer& l = layers_[index];
  const Queries& queries = index == shape.num_layers - 1 ? plan_.asked : plan_.all;
  project(index, w);
  if (!queries.rows) return;
  const Rows in = attention(index, queries, w);
  prefetch_cache(index + 1, w);
  linear({{&l.output, 0}}, in, queries.rows, {x_, hidden_ld_, Then::add}, w);
  feed_forward(index, queries.rows, w);
}

// Queries, keys and values. The last layer needs the keys and values of all rows, all else only of those whose logits
// are asked for: from the queries on these are rows 0, 1, ... of x_ and of all that is made from it.
void Model::project(int index, Worker& w) {
  const Layer& l = layers_[index];
  auto product = [&](int rows, const std::vector<Part>& parts) {
    const Rows in = prepare({x_, hidden_ld_, shape.hidden_size, l.attention_norm, l.query.weight->order,
                             outlier_of(index)}, rows, w);
    linear(parts, in, rows, {qkv_, qkv_ld_, Then::store}, w);
  };
  const Part query{&l.query, 0}, key{&l.key, key_at_}, value{&l.value, value_at_};
  const bool narrow = index == shape.num_layers - 1 && plan_.asked.rows < plan_.all.rows;
  product(plan_.all.rows, narrow ? std::vector<Part>{key, value} : std::vector<Part>{query, key, value});
  if (plan_.keys_apart) {
    constexpr int kRows = 8;
    const int rows = step_->num_tokens;
    w.share((rows + kRows - 1) / kRows, [&](int u) {
      for (int r = u * kRows; r < std::min(u * kRows + kRows, rows); r++)
        for (int h = 0; h < shape.num_kv_heads; h++) rotate_keys(index, r, h);
    });
  }
  if (!narrow || !plan_.asked.rows) return;
  w.share(1, [&](int) {
    for (int i = 0; i < plan_.asked.rows; i++)  // never moves a row down
      std::memmove(x_ + (size_t)i * hidden_ld_, x_ + (size_t)plan_.asked_rows[i] * hidden_ld_,
                   hidden_ld_ * sizeof(float));
  });
  product(plan_.asked.rows, {query});
}

void Model::feed_forward(int index, int rows, Worker& w) {
  const Layer& l = layers_[index];
  Rows in = prepare({x_, hidden_ld_, shape.hidden_size, l.mlp_norm, l.gate.weight->order, outlier_of(index)}, rows, w);
  gated(l, in, rows, w);
  in = prepare({mid_, mid_ld_, shape.intermediate_size, nullptr, l.down.weight->order, outlier_of(index)}, rows, w);
  linear({{&l.down, 0}}, in, rows, {x_, hidden_ld_, Then::add}, w);
}

void Model::prepare_row(const Source& s, const Rows& rows, int row, Scratch& scratch) const {
  const float* x = s.x + (size_t)(s.index ? s.index[row] : row) * s.ldx;
  float* target = quantized_ ? scratch.row : rows.f + (size_t)row * round_up(s.k, kLanes);
  if (s.norm)
    kernels_.rms_norm(x, s.norm, shape.rms_norm_eps, s.k, target), x = target;
  if (!quantized_) {
    if (x != target) std::copy(x, x + s.k, target);
    return;
  }
  if (s.order) {
    for (int i = 0; i < s.k; i++) scratch.ordered[i] = x[s.order[i]];
    x = scratch.ordered;
  }
  kernels_.quantize(x, s.outlier, rows.q.row(row));
}

// Norm (if any) and quantisation of the step's rows, or of those that the source's index names.
Model::Rows Model::prepare(const Source& s, int rows, Worker& w) {
  Rows out = rows <= kOwnRows ? w.scratch.rows : rows_;
  out.k = out.q.k = s.k;
  if (rows <= kOwnRows) {
    if (w.next->finished()) return out;  // this thread comes too late for the product
    for (int r = 0; r < rows; r++) prepare_row(s, out, r, w.scratch);
    return out;
  }
  constexpr int kRows = 4;
  w.share((rows + kRows - 1) / kRows, [&](int u) {
    for (int r = u * kRows; r < std::min(u * kRows + kRows, rows); r++) prepare_row(s, out, r, w.scratch);
  });
  return out;
}

Model::Rows Model::from_row(const Rows& in, int row) const {
  if (quantized_) return {in.q.row(row), nullptr, in.k};
  return {{}, in.f + (size_t)row * round_up(in.k, kLanes), in.k};
}

void Model::multiply(const Projection& p, const Rows& in, int rows, Output out, int first, int last,
                     Scratch& scratch) const {
  const Tensor& t = *p.weight;
  const uint8_t* tiles = t.data + first * t.tile_bytes();
  float* data = out.data + first * kLanes;
  const auto gemm = rows < kernels_.many_rows ? kernels_.gemm : kernels_.gemm_many;
  if (quantized_)
    gemm({tiles, t.format, last - first, in.q, rows, data, out.ld, out.then, &scratch.prefetch});
  else
    kernels_.gemm_f32({(const float*)tiles, last - first, t.k, in.f, round_up(t.k, kLanes), rows, data, out.ld,
                       out.then});
  if (p.bias)
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < (last - first) * kLanes; i++) data[(size_t)r * out.ld + i] += p.bias[first * kLanes + i];
}

// Few rows: threads share the tiles. Many, and enough for all of them: the rows.
template <class F>
void Model::share_products(int tiles, int most_tiles, int rows, Worker& w, F compute) {
  const int threads = pool_.size();
  if (rows >= std::max(kByRows, threads * kernels_.unit_rows)) {
    const int unit = round_up(std::max(kernels_.unit_rows, rows / (4 * threads)), 8);
    return w.share((rows + unit - 1) / unit, [&](int u) {
      for (int t = 0; t < tiles; t += most_tiles)
        compute(u * unit, std::min(u * unit + unit, rows), t, std::min(t + most_tiles, tiles));
    });
  }
  const int unit = std::min(std::max(1, tiles / (8 * threads)), most_tiles);
  w.share((tiles + unit - 1) / unit, [&](int u) { compute(0, rows, u * unit, std::min(u * unit + unit, tiles)); });
}

void Model::linear(const std::vector<Part>& parts, const Rows& in, int rows, Output out, Worker& w) {
  int tiles = 0;
  for (const Part& p : parts) tiles += p.of->weight->tiles();
  share_products(tiles, tiles, rows, w, [&](int begin, int end, int first, int last) {
    float* to = out.data + (size_t)begin * out.ld;
    for (const Part& p : parts) {
      const int count = p.of->weight->tiles(), from = std::max(first, 0), until = std::min(last, count);
      if (from < until)
        multiply(*p.of, from_row(in, begin), end - begin, {to + p.column, out.ld, out.then}, from, until, w.scratch);
      first -= count, last -= count;
    }
  });
}

// SwiGLU of gate and up.
void Model::gated(const Layer& l, const Rows& in, int rows, Worker& w) {
  share_products(l.gate.weight->tiles(), kGatedTiles / kernels_.panel_rows, rows, w, [&](int begin, int end, int first, int last) {
    gated_unit(l, in, begin, end, first, last, w.scratch);
  });
}

void Model::gated_unit(const Layer& l, const Rows& in, int begin, int end, int first, int last, Scratch& scratch) {
  const int n = (last - first) * kLanes;
  for (int row = begin; row < end; row += kernels_.panel_rows) {
    const int rows = std::min(kernels_.panel_rows, end - row);
    float *gate = scratch.panel, *up = gate + n;
    // NOTE: multiply counts columns from the matrix's first.
    multiply(l.gate, from_row(in, row), rows, {gate - first * kLanes, 2 * n, Then::store}, first, last, scratch);
    multiply(l.up, from_row(in, row), rows, {up - first * kLanes, 2 * n, Then::store}, first, last, scratch);
    for (int r = 0; r < rows; r++)
      kernels_.swiglu(gate + r * 2 * n, up + r * 2 * n, n, mid_ + (size_t)(row + r) * mid_ld_ + first * kLanes);
  }
}

void Model::sample_row(int row, Scratch& scratch) {
  const Step& s = *step_;
  const float* logits = logits_ + (size_t)row * logits_ld_;
  RowResult result{0, 0, s.out_top_ids + (size_t)row * s.top_width, s.out_top_logprobs + (size_t)row * s.top_width};
  if (!scratch.sampler->sample(logits, s.params[row], result)) bad_row_ = row;
  s.out_ids[row] = result.token;
  s.out_logprobs[row] = result.logprob;
  if (s.out_logits) std::copy(logits, logits + shape.vocab_size, s.out_logits + (size_t)row * shape.vocab_size);
}
