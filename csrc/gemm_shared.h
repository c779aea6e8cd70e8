// What the products of all units share: how a tile's block of 256 inputs is unpacked, and what its sums become.
#pragma once
#include <cstring>
#include <type_traits>

#include "kernels.h"

namespace KERNEL_NS {

// What a product gives for 16 of its columns in one row. After the last of them: end_writes.
inline void write(float* to, F result, Then then) {
  if (then == Then::stream) return stream(to, result);
  store(to, then == Then::add ? add(load(to), result) : result);
}

inline void end_writes(Then then) {
  if (then == Then::stream) end_streams();  // before other threads hear that they are there
}

template <class Pairs>
inline auto& half_of(Pairs* pairs, int i) { return i % 2 ? pairs[i / 2].odd : pairs[i / 2].even; }

typedef int32_t __attribute__((may_alias)) Word;  // a pair in one, as compilers vectorise it

// One tile's block as the products read it.
struct alignas(64) Unpacked {
  uint8_t codes[kLanes * kBlock];
  int32_t s[16 * kLanes];              // as Dot<bits>::scale_word has them
  Pair<int16_t> t[8 * kLanes];         // of two neighbouring groups
  float d[8 * kLanes], m[8 * kLanes];  // of each 32, or the first 16 of the block
  int32_t z[8 * kLanes];               // of each 32
};

// Where the codes of a block's group begin.
template <Format format>
inline const uint8_t* group_at(const uint8_t* block, int g) {
  constexpr FormatInfo of = info(format);
  constexpr int in_span = of.span / kGroup;
  return block + g / in_span * of.tile_bytes() + of.head_bytes() + g % in_span * (kGroupBytes * of.bits / 8);
}

template <int f = (int)Format::a8, class Do>
inline void with_format(Format format, Do run) {
  if ((int)format == f) return run(std::integral_constant<Format, (Format)f>());
  if constexpr (f + 1 < kFormats) return with_format<f + 1>(format, run);
  __builtin_unreachable();
}

constexpr int kAhead = 4096;  // bytes beyond the block at hand that are fetched

template <Format format>
inline void fetch_group(const uint8_t* ahead, int g) {
  constexpr int bytes = info(format).tile_bytes() * kGroup / info(format).span;  // with its share of the scales
  if (!ahead) return;
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + g * bytes + i, 0, 3);
}

// What precedes the codes of group g, where a format is smaller than the block.
template <Format format>
struct Heads {
  static constexpr FormatInfo of = info(format);
  const uint8_t* block;

  const uint8_t* span(int g) const { return block + g / (of.span / kGroup) * of.tile_bytes(); }
  F d(int g) const { return load_half((const uint16_t*)span(g)); }
  F m(int g) const { return load_half((const uint16_t*)span(g) + kLanes); }
  I z(int g) const {
    int32_t z[kLanes];
    for (int i = 0; i < kLanes; i++) z[i] = span(g)[of.half_bytes() + i];
    return load(z);
  }
};

template <Format format>
static void unpack_codes(const uint8_t* block, int groups, Unpacked& u) {
  constexpr FormatInfo of = info(format);
  for (int g = 0; g < groups; g++) {
    uint8_t* out = u.codes + g * kGroupBytes;
    unpack_group<of.bits>(group_at<format>(block, g), out);
    if (of.has_table) look_up(kTable, out, kGroupBytes);
  }
}

template <class D, Format format>
static void unpack_scales(const uint8_t* block, int groups, Unpacked& u) {
  constexpr FormatInfo of = info(format);
  if constexpr (!of.is_block()) {
    const Heads<format> from{block};
    for (int g = 0; g < groups; g++) {
      store(u.d + g * kLanes, from.d(g));
      if (of.has_minima) store(u.m + g * kLanes, from.m(g));
      if (of.has_zeros) store(u.z + g * kLanes, from.z(g));
    }
  } else {
    constexpr int scales = of.scales();
    const uint8_t *s = block + of.half_bytes(), *t = s + scales * kLanes;
    const uint16_t* half = (const uint16_t*)block;
    for (int i = 0; i < scales * kLanes; i++)
      u.s[i] = D::scale_word(of.packs_scales() ? s[i] & 15 : (int8_t)s[i]);
    for (int g = 0; g < scales; g += 2) {
      uint8_t from[2 * kLanes];  // of its own, so that compilers vectorise what follows
      std::memcpy(from, (of.packs_scales() || !of.has_minima ? s : t) + g * kLanes, sizeof from);
      Word* pairs = (Word*)(u.t + g / 2 * kLanes);
      for (int i = 0; i < kLanes; i++) {
        const int a = from[i], b = from[i + kLanes];
        const int even = of.packs_scales() ? a >> 4 : of.has_minima ? a : (int8_t)a;
        const int odd = of.packs_scales() ? b >> 4 : of.has_minima ? b : (int8_t)b;
        pairs[i] = (even & 0xffff) | odd << 16;
      }
    }
    const F d = load_half(half);
    store(u.d, d);
    store(u.m, of.has_minima ? load_half(half + kLanes) : mul(d, set1((float)of.offset)));
  }
}

// sum of t * (low + 255 * high)
template <int pairs>
inline I minima(const Unpacked& u, const Pair<int16_t>* low, const Pair<int16_t>* high, bool has_high) {
  I sum = iset1(0), more = sum;
  for (int j = 0; j < pairs; j++) sum = fma(broadcast(low + j), load(u.t + j * kLanes), sum);
  if (!has_high) return sum;
  for (int j = 0; j < pairs; j++) more = fma(broadcast(high + j), load(u.t + j * kLanes), more);
  return iadd(sum, isub(shift_left<8>(more), more));
}

// f with what a block of a format of 256 gives: total, high: sums of s * u * low, and * high.
template <Format format>
inline F add_sums(const Unpacked& u, F d, F dm, const Inputs::Block& b, I total, I high, F f) {
  constexpr FormatInfo of = info(format);
  F p = to_float(total);
  if (b.marks) p = fma(to_float(high), set1(255.0f), p);
  f = fma(p, mul(d, set1(b.scale)), f);
  if (!of.has_minima && !of.offset) return f;
  const I t = of.scale_group == 16 ? minima<8>(u, b.low16, b.high16, b.marks) : minima<4>(u, b.low32, b.high32, b.marks);
  return fma(to_float(t), mul(dm, set1(-b.scale)), f);
}

}  // namespace KERNEL_NS
