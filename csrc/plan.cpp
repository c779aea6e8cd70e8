#include "plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "pool.h"

static void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

static bool within(const int32_t* v, int n, int low, int high) {
  return std::all_of(v, v + n, [=](int32_t x) { return x >= low && x < high; });
}

static void check_count(const char* array, int n, const char* what, int most, const char* option) {
  require(n > 0 && n <= most, std::string(array) + " must hold 1 to " + std::to_string(most) + " " + what + " (" +
                                  option + "). Given: " + std::to_string(n) + ".");
}

void check_step(const Step& s, const ModelLimits& limits, int vocab_size) {
  check_count("token_ids", s.num_tokens, "tokens", limits.max_num_batched_tokens, "max_num_batched_tokens");
  check_count("context_lens", s.num_seqs, "sequences", limits.max_num_seqs, "max_num_seqs");
  require(within(s.token_ids, s.num_tokens, 0, vocab_size), "token_ids must be in the vocabulary.");
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
    require(blocks <= s.table_width && within(s.block_table(q), blocks, 0, limits.num_blocks),
            "block_tables must name a block for every token of the context.");
  }
}

Plan::Plan(const ModelShape& s, const ModelLimits& l)
    : pieces(std::max(l.threads, 1)), kv_heads_(s.num_kv_heads), group_(s.group()), threads_(std::max(l.threads, 1)) {
  const size_t rows_per_unit = std::max(1, kUnitQueries / group_), spans = (l.max_model_len + kSpan - 1) / kSpan;
  for (Queries* queries : {&all, &asked})
    queries->units.reserve((l.max_num_batched_tokens / rows_per_unit + l.max_num_seqs + 1) * kv_heads_ + 8 * threads_ +
                           (size_t)l.max_num_seqs * kv_heads_ * spans);
}

void Plan::make(const Step& s, const KvCache& cache) {
  all.rows = s.num_tokens;
  all.positions.assign(s.positions, s.positions + s.num_tokens);
  all.cu_seqlens.assign(s.cu_seqlens_q, s.cu_seqlens_q + s.num_seqs + 1);
  asked_rows.assign(s.logits_indices, s.logits_indices + s.num_logits);
  std::sort(asked_rows.begin(), asked_rows.end());
  asked_rows.erase(std::unique(asked_rows.begin(), asked_rows.end()), asked_rows.end());
  auto place = [&](int row) {
    return (int32_t)(std::lower_bound(asked_rows.begin(), asked_rows.end(), row) - asked_rows.begin());
  };
  asked.rows = (int)asked_rows.size();
  asked.positions.clear(), asked.cu_seqlens.clear(), head_rows.clear();
  for (int32_t row : asked_rows) asked.positions.push_back(s.positions[row]);
  for (int32_t row : all.cu_seqlens) asked.cu_seqlens.push_back(place(row));
  for (int i = 0; i < s.num_logits; i++) head_rows.push_back(place(s.logits_indices[i]));

  const bool has_chunks = s.num_tokens > s.num_seqs;
  long spans = 0;
  for (int q = 0; q < s.num_seqs; q++) spans += (s.context_lens[q] + kSpan - 1) / kSpan;
  split = !has_chunks && threads_ > 1 && s.num_seqs * kv_heads_ < 8 * threads_ && spans > 2 * s.num_seqs;
  // A chunk's later queries see its earlier keys; a single token's unit writes its own.
  keys_apart = has_chunks || split || asked.rows < all.rows;
  const int part = split ? (int)std::max(1L, spans * kv_heads_ / (8 * threads_)) : 1 << 30;
  for (Queries* queries : {&all, &asked}) make_units(*queries, part);
  foresee(s, cache);
}

void Plan::make_units(Queries& queries, int part) const {
  const int share = queries.rows * kv_heads_ / (8 * threads_);
  const int unit_rows = std::max(1, std::min(round_up(share, 4), kUnitQueries / group_));
  queries.units.clear();
  for (size_t q = 0; q + 1 < queries.cu_seqlens.size(); q++) {
    const int last = queries.cu_seqlens[q + 1];
    for (int begin = queries.cu_seqlens[q], end; begin < last; begin = end) {
      end = std::min(begin + unit_rows, last);
      const int count = (queries.positions[end - 1] + kSpan) / kSpan;
      for (int span = 0; span < count; span += part)
        for (int h = 0; h < kv_heads_; h++)
          queries.units.push_back({(int)q, begin, end - begin, h, span, part < count - span ? span + part : count});
    }
  }
}

// Each thread fetches, while it computes products, what it will probably attend to in the next layer. The longest rows of a
// chunk see what the others see.
void Plan::foresee(const Step& s, const KvCache& cache) {
  const KvHead first = cache.head(0, 0);
  for (std::vector<long>& of : pieces) of.clear();
  for (size_t i = 0; i < all.units.size(); i++) {
    const AttendUnit& u = all.units[i];
    if (u.first_row + u.num_rows != all.cu_seqlens[u.seq + 1]) continue;
    const int end = std::min(all.positions[u.first_row + u.num_rows - 1] + 1, u.last_span * kSpan);
    std::vector<long>& of = pieces[Stage::owner((int)i, (int)all.units.size(), threads_)];
    for (int b = u.first_span * kSpan / first.block_size; b * first.block_size < end; b++)
      of.push_back(s.block_table(u.seq)[b] * first.block_stride + u.kv_head * cache.head_bytes());
  }
}
