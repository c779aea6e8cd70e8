// Attention of a few queries over the paged cache, reduced span by span in the order of absolute positions.
//
// A query's arithmetic per span: scores, one chain of products over the head dimension per position; their maximum;
// powers of 2 (queries come scaled by log2(e)), summed lane by lane; values, one chain over the positions it sees.
// Over a cache of integers both chains are exact: a score is an integer times the scales of query and key; the terms of
// the softmax, times the scales of their values, are rounded to integers up to kWordLimit for the sum of values.
// Spans are merged in ascending order. Nothing of it depends on the other queries, so a token gets the same bits alone
// and inside any chunk.
#pragma once
#include "kernels_impl.h"

namespace KERNEL_NS {

constexpr int kSpanTiles = kSpan / kLanes;

struct Floats {
  using Key = float;
  using Value = float;
  static constexpr int kTogether = 1;  // numbers in an element
  static constexpr int kColumn = 16;   // elements from a column of values to the next
};
struct Integers {
  using Key = Pair<int8_t>;
  using Value = Pair<int8_t>;
  static constexpr int kTogether = 2, kColumn = 16 * kLanes / 2;
};

template <class Form>
struct Span {
  const typename Form::Key* key[kSpanTiles];           // a tile of 16 positions each
  const typename Form::Value* value[kSpanTiles * 32];  // for each tile its columns of 16
  const float *key_scale[kSpanTiles], *value_scale[kSpanTiles];
  int tiles, columns;
};

// The span that begins at position `first`. Beyond its tiles the last one's address is repeated.
template <class Form>
static void locate(const Spans& spans, int first, Span<Form>& s) {
  using Value = typename Form::Value;
  const KvHead& kv = spans.kv;
  const int count = spans.positions - first;
  s.tiles = ((count < kSpan ? count : kSpan) + kLanes - 1) / kLanes;
  s.columns = round_up(kv.head_dim, 16) / 16;
  const long key_bytes = kv.head_dim / Form::kTogether * sizeof(typename Form::Key);  // of one position
  const long value_bytes = s.columns * 16 / Form::kTogether * sizeof(Value);
  for (int j = 0; j < kSpanTiles; j++) {
    const int position = first + (j < s.tiles ? j : s.tiles - 1) * kLanes, offset = position % kv.block_size;
    const char* keys = kv.base + spans.block_table[position / kv.block_size] * kv.block_stride;
    const char* values = keys + kv.block_size * key_bytes;
    s.key[j] = (const typename Form::Key*)(keys + offset * key_bytes);
    for (int i = 0; i < s.columns; i++)
      s.value[j * s.columns + i] = (const Value*)(values + offset * value_bytes) + Form::kColumn * i;
    s.key_scale[j] = (const float*)(values + kv.block_size * value_bytes) + offset;
    s.value_scale[j] = s.key_scale[j] + kv.block_size;
  }
}

// Makes terms of the softmax over the first `count` positions from their scores; the rest become 0.
template <class Scores>
inline void terms(Scores score, int tiles, int count, float* term, float* max_out, float* sum_out) {
  const F none = set1(-__builtin_inff());
  F top = none;
  for (int j = 0; j < tiles; j++) {
    const F v = keep_first(score(j), count - 16 * j, none);
    store(term + 16 * j, v);
    top = max(v, top);
  }
  const float m = reduce_max(top);
  F sum = set1(0.0f);
  for (int j = 0; j < tiles; j++) {
    const F p = exp2_lanes(sub(load(term + 16 * j), set1(m)));
    store(term + 16 * j, p);
    sum = add(sum, p);
  }
  *max_out = m;
  *sum_out = reduce_add(sum);
}

// Rounds the terms times the scales of their values, and returns what 1 then stands for.
static float round_terms(const Span<Integers>& s, int count, float* term, int16_t* words) {
  I top = iset1(0);
  for (int j = 0; j < s.tiles; j++) {
    const F v = keep_first(mul(load(term + 16 * j), load(s.value_scale[j])), count - 16 * j, set1(0.0f));
    store(term + 16 * j, v);
    top = imax(top, bits(v));  // compared as integers, as in round_group
  }
  const Rounding r(reduce_imax(top), kWordLimit);
  for (int j = 0; j < s.tiles; j++)
    store_words(words + 16 * j, round_int(mul(load(term + 16 * j), set1(r.inverse))));
  return r.scale;
}

constexpr int kMostRows = kByteQueries > kQueryBlock ? kByteQueries : kQueryBlock;

// One span's results for a block of queries, of which query i sees the first count[i] positions; counts rise.
struct Part {
  int rows, count[kMostRows];
  float *out, max[kMostRows], sum[kMostRows];
};

static_assert(kMostRows <= 16);

static void reduce(const Attend& a, const Span<Floats>& s, const Span<Floats>& next, int q, Part& part) {
  float score[kQueryBlock * kSpan];
  const int d = a.spans.kv.head_dim, width = s.columns * 16, longest = part.count[part.rows - 1];
  product_rows(Product{a.q + (long)q * width, width, d, d, s.key, next.key, 0, 16, score, kSpan}, part.rows, s.tiles);
  for (int i = 0; i < part.rows; i++) {
    float* row = score + i * kSpan;
    terms([&](int j) { return load(row + 16 * j); }, s.tiles, part.count[i], row, part.max + i, part.sum + i);
  }
  // A term of 0 does not do for positions that a query does not see: what is left in the cache there may be NaN.
  const bool alike = part.count[0] == longest;
  for (int i = 0; i < part.rows; i += alike ? part.rows : 1)
    product_rows(Product{score + i * kSpan, kSpan, part.count[i], kLanes, s.value, next.value, s.columns, width,
                         part.out + i * width, width},
                 alike ? part.rows : 1, s.columns);
}

static void reduce(const Attend& a, const Span<Integers>& s, const Span<Integers>& next, int q, Part& part) {
  using Words = const Pair<int16_t>*;
  int32_t score[kMostRows * kSpan], total[kMostRows * kMaxHeadDim];
  int16_t words[kMostRows * kSpan];
  float term[kSpan], scale[kMostRows];
  const int pairs = a.spans.kv.head_dim / 2, width = s.columns * 16, longest = part.count[part.rows - 1];
  const Words queries = (Words)(a.q_words + (long)q * width);
  if (part.rows <= kFewRows)
    for (int j = 0; j < kSpanTiles; j++) fetch_later(next.key_scale[j]), fetch_later(next.value_scale[j]);
  product_rows(Product{queries, width / 2, pairs, pairs, s.key, next.key, 0, 16, score, kSpan}, part.rows, s.tiles);
  for (int i = 0; i < part.rows; i++) {
    const F q_scale = set1(a.q_scale[q + i]);
    auto to_score = [&](int j) {
      return mul(to_float(load(score + i * kSpan + 16 * j)), mul(load(s.key_scale[j]), q_scale));
    };
    terms(to_score, s.tiles, part.count[i], term, part.max + i, part.sum + i);
    scale[i] = round_terms(s, part.count[i], term, words + i * kSpan);
  }
  product_rows(Product{(Words)words, kSpan / 2, (longest + 1) / 2, kLanes / 2, s.value, next.value, s.columns, 16, total,
                       width},
               part.rows, s.columns);
  for (int i = 0; i < part.rows; i++)
    for (int j = i * width; j < (i + 1) * width; j += 16)
      store(part.out + j, mul(to_float(load(total + j)), set1(scale[i])));
}

template <class Form>
static void attend_span(const Attend& a, const Span<Form>& s, const Span<Form>& next, int first, int q, int rows,
                        bool fresh) {
  const int width = s.columns * 16;
  float out[kMostRows * kMaxHeadDim];
  Part part{rows, {}, fresh ? a.out + (long)q * width : out, {}, {}};
  for (int i = 0; i < rows; i++) part.count[i] = a.visible[q + i] - first < kSpan ? a.visible[q + i] - first : kSpan;
  reduce(a, s, next, q, part);
  float keep[16] = {}, gain[16] = {};  // as merge has them, of all rows at once
  for (int i = 0; i < rows; i++) {
    const float top = fresh || part.max[i] > a.max[q + i] ? part.max[i] : a.max[q + i];
    keep[i] = fresh ? 0 : a.max[q + i] - top, gain[i] = part.max[i] - top;
    a.max[q + i] = top;
    if (fresh) a.sum[q + i] = part.sum[i];
  }
  if (fresh) return;
  store(keep, exp2_lanes(load(keep)));
  store(gain, exp2_lanes(load(gain)));
  for (int i = 0; i < rows; i++)
    merge_by(keep[i], gain[i], a.out + (long)(q + i) * width, a.sum + q + i, out + i * width, part.sum[i], width);
}

template <class Form>
static void attend_spans(Attend a) {
  const Spans spans = a.spans;
  Span<Form> located[2];  // the one that is reduced, and the one that is fetched meanwhile
  locate(spans, spans.first * kSpan, located[spans.first % 2]);
  for (int span = spans.first; span < spans.last; span++) {
    const int first = span * kSpan;
    const Span<Form>& s = located[span % 2];
    Span<Form>& next = located[(span + 1) % 2];
    span + 1 < spans.last ? locate(spans, first + kSpan, next) : locate(a.next, a.next.first * kSpan, next);
    int q = 0;
    while (q < a.num_queries && a.visible[q] <= first) q++;  // ordered by position: those that see it are a suffix
    for (constexpr int most = kRows<typename Form::Key>; q < a.num_queries; q += most)
      attend_span(a, s, next, first, q, a.num_queries - q < most ? a.num_queries - q : most, a.apart || span == spans.first);
    a.out += a.apart, a.max += a.apart, a.sum += a.apart;
  }
}

static void attend(const Attend& a) { a.spans.kv.integers ? attend_spans<Integers>(a) : attend_spans<Floats>(a); }

}  // namespace KERNEL_NS
