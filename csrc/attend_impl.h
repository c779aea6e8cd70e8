// Attention of a few queries over the paged cache, reduced span by span in the order of absolute positions.
//
// A query's arithmetic per span: scores, one chain of products over the head dimension per position; their maximum;
// exp, summed lane by lane; values, one chain over the positions it sees. Spans are merged in ascending order. Nothing of
// it depends on the other queries, so a token gets the same bits alone and inside any chunk.
#pragma once
#include "kernels_impl.h"

namespace KERNEL_NS {

constexpr int kSpanTiles = kSpan / kLanes;

template <class T>
struct Span {
  const T* key[kSpanTiles];    // each [D][16]
  const T* value[kSpanTiles];  // each [16][round_up(D, 16)]
  int tiles;
};

template <class T>
static Span<T> locate(const Attend& a, int first, int count) {
  Span<T> s;
  s.tiles = (count + kLanes - 1) / kLanes;
  const KvHead& kv = a.kv;
  for (int j = 0; j < kSpanTiles; j++) {
    const int position = first + (j < s.tiles ? j : s.tiles - 1) * kLanes;
    const T* block = (const T*)kv.base + a.block_table[position / kv.block_size] * kv.block_stride;
    const int offset = position % kv.block_size;
    s.key[j] = block + (long)offset * kv.head_dim;
    s.value[j] = block + (long)kv.block_size * kv.head_dim + (long)offset * round_up(kv.head_dim, 16);
  }
  return s;
}

// Copies a span as float, so that many queries share the conversion.
static Span<float> widen_span(const Span<uint16_t>& s, int head_dim, float* scratch) {
  Span<float> wide;
  wide.tiles = s.tiles;
  const int key_size = head_dim * kLanes, value_size = kLanes * round_up(head_dim, 16);
  float* values = scratch + kSpanTiles * key_size;
  for (int j = 0; j < kSpanTiles; j++) {
    const int used = j < s.tiles ? j : s.tiles - 1;
    wide.key[j] = scratch + used * key_size;
    wide.value[j] = values + used * value_size;
    if (j >= s.tiles) continue;
    for (int i = 0; i < key_size; i += 16) store(scratch + j * key_size + i, load(s.key[j] + i));
    for (int i = 0; i < value_size; i += 16) store(values + j * value_size + i, load(s.value[j] + i));
  }
  return wide;
}

// Turns scores into terms of the softmax over the first `count` positions; the rest become 0.
inline void terms(float* score, int count, float* max_out, float* sum_out) {
  const F none = set1(-__builtin_inff());
  const int tiles = (count + kLanes - 1) / kLanes;
  F top = none;
  for (int j = 0; j < tiles; j++) {
    const F v = keep_first(load(score + 16 * j), count - 16 * j, none);
    store(score + 16 * j, v);
    top = max(v, top);
  }
  const float m = reduce_max(top);
  F sum = set1(0.0f);
  for (int j = 0; j < tiles; j++) {
    const F p = exp_lanes(sub(load(score + 16 * j), set1(m)));
    store(score + 16 * j, p);
    sum = add(sum, p);
  }
  *max_out = m;
  *sum_out = reduce_add(sum);
}

// out[q] += terms . values over positions [from, to) of the span.
template <class T>
static void weigh(const Span<T>& s, const float* p, int rows, int from, int to, int width, float* out) {
  const T* columns[64];
  const int n = width / 16;
  for (int i = from; i < to;) {
    const int tile = i / kLanes, end = (tile + 1) * kLanes < to ? (tile + 1) * kLanes : to;
    for (int base = 0; base < n; base += 64) {
      const int part = n - base < 64 ? n - base : 64;
      for (int j = 0; j < part; j++) columns[j] = s.value[tile] + (long)(i % kLanes) * width + 16 * (base + j);
      product_rows(rows, p + i, kSpan, end - i, columns, part, width, out + 16 * base, width, i > 0);
    }
    i = end;
  }
}

template <class T>
static void attend_span(const Attend& a, const Span<T>& s, int first, int q, int rows, bool fresh) {
  float* score = a.scratch;
  const int d = a.kv.head_dim, width = round_up(d, 16);
  float part[kQueryBlock * 512], max[kQueryBlock], sum[kQueryBlock];
  product_rows(rows, a.q + (long)q * d, d, d, s.key, s.tiles, kLanes, score, kSpan, false);
  int shared = kSpan;
  for (int i = 0; i < rows; i++) {
    const int count = a.visible[q + i] - first < kSpan ? a.visible[q + i] - first : kSpan;
    terms(score + i * kSpan, count, max + i, sum + i);
    shared = count < shared ? count : shared;
  }
  float* out = fresh ? a.out + (long)q * width : part;
  weigh(s, score, rows, 0, shared, width, out);
  for (int i = 0; i < rows; i++) {
    const int count = a.visible[q + i] - first < kSpan ? a.visible[q + i] - first : kSpan;
    weigh(s, score + i * kSpan, 1, shared, count, width, out + i * width);
    if (fresh)
      a.max[q + i] = max[i], a.sum[q + i] = sum[i];
    else
      merge(a.out + (long)(q + i) * width, a.max + q + i, a.sum + q + i, part + i * width, max[i], sum[i], width);
  }
}

// Queries are ordered by position, so those that see a span are a suffix.
template <class T>
static void attend_block(const Attend& a, const Span<T>& s, int first, bool first_span) {
  int q = 0;
  while (q < a.num_queries && a.visible[q] <= first) q++;
  for (; q < a.num_queries; q += kQueryBlock)
    attend_span(a, s, first, q, a.num_queries - q < kQueryBlock ? a.num_queries - q : kQueryBlock, first_span);
}

static void attend(const Attend& a) {
  const int longest = a.visible[a.num_queries - 1];
  for (int span = a.first_span; span < a.last_span; span++) {
    const int first = span * kSpan, count = longest - first < kSpan ? longest - first : kSpan;
    const bool fresh = span == a.first_span;
    if (!a.kv.bf16) {
      attend_block(a, locate<float>(a, first, count), first, fresh);
      continue;
    }
    const Span<uint16_t> narrow = locate<uint16_t>(a, first, count);
    if (a.num_queries <= 2 * kQueryBlock)
      attend_block(a, narrow, first, fresh);
    else
      attend_block(a, widen_span(narrow, a.kv.head_dim, a.scratch + 8 * kSpan), first, fresh);
  }
}

}  // namespace KERNEL_NS
