// Products of coded weights with rounded inputs, written once over Dot<bits> of vec_*.h.
//
// A tile's block of 256 inputs is unpacked to bytes once, into the first-level cache, and multiplied with a panel of rows.
// For a row or two its codes are taken out of the image as they are needed, since nobody reads them again; those of 8 bits
// always, since they are bytes already. A format is what unpacks it and which of two sums it takes: with integer scales in the block, or with half scales
// per 32.
#pragma once
#include <cstring>
#include <utility>

#include "kernels_impl.h"

namespace KERNEL_NS {

constexpr int kPanel = 64;      // rows that are multiplied with a block while it is unpacked
constexpr int kDirectRows = 2;  // so many do without
constexpr int kAhead = 4096;    // bytes beyond the block at hand that are fetched
constexpr int kBlockLines = kBlock / 4;

typedef int32_t __attribute__((may_alias)) Word;  // a pair in one, as compilers vectorise it

// One tile's block as the products read it.
struct alignas(64) Unpacked {
  uint8_t codes[kBlockLines * kLineBytes];
  int32_t s[16 * kLanes];                // as Dot<bits>::scale_word has them
  Pair<int16_t> t[8 * kLanes];           // of two neighbouring groups
  float d[8 * kLanes], m[8 * kLanes];    // of each 32, or the first 16 of the block
  int32_t z[8 * kLanes];                 // of each 32
};

inline int32_t four(const int8_t* a, int line) {
  int32_t word;
  __builtin_memcpy(&word, a + 4 * line, 4);
  return word;
}

// Part `to` and up of line l's codes, out of a plane of `bits` (see pack_plane).
template <int bits, int l, int to>
inline I plane_part(const uint8_t* plane) {
  constexpr int shift = l / bits * bits - to, mask = ((1 << bits) - 1) << to;
  I w = load_line(plane + l % bits * kLineBytes);
  if constexpr (shift > 0) w = shift_right<shift>(w);
  if constexpr (shift < 0) w = shift_left<-shift>(w);
  return iand(w, iset1(mask * 0x01010101));
}

// Line l of a group as it is stored.
template <int bits, int l>
inline I packed_line(const uint8_t* group) {
  constexpr int low = bits >= 4 ? 4 : 2;
  if constexpr (bits == 8) {
    return load_line(group + l * kLineBytes);
  } else {
    I w = plane_part<low, l, 0>(group);
    if constexpr (bits > low) w = iadd(w, plane_part<bits - low, l, low>(group + kGroupBytes * low / 8));
    return w;
  }
}

// Compilers must not call what is run in a loop like this: sums would go through memory.
#define INLINED __attribute__((always_inline))

template <int count, class Do>
INLINED inline void each(Do run) {
  [&]<int... i>(std::integer_sequence<int, i...>) INLINED {
    (run(std::integral_constant<int, i>()), ...);
  }(std::make_integer_sequence<int, count>());
}

// Where the codes of a block's group begin.
template <Format format>
inline const uint8_t* group_at(const uint8_t* block, int g) {
  constexpr FormatInfo of = info(format);
  constexpr int in_span = of.span / kGroup;
  return block + g / in_span * of.tile_bytes() + of.head_bytes() + g % in_span * (kGroupBytes * of.bits / 8);
}

// Where the products read a block's codes: in the image, as one or two rows do, and all rows those of 8 bits; `ahead`, unless
// null, is fetched meanwhile, a group at a time: all lines of a block at once are more than a core can wait for.
template <Format format>
struct InImage {
  static constexpr FormatInfo of = info(format);
  static constexpr int bits = of.bits, in_span = of.span / kGroup;
  const uint8_t *block, *ahead;

  // Of group g, where a format is smaller than the block.
  const uint8_t* span(int g) const { return block + g / in_span * of.tile_bytes(); }
  F d(int g) const { return load_half((const uint16_t*)span(g)); }
  F m(int g) const { return load_half((const uint16_t*)span(g) + kLanes); }
  I z(int g) const {
    int32_t z[kLanes];
    for (int i = 0; i < kLanes; i++) z[i] = span(g)[of.half_bytes() + i];
    return load(z);
  }

  template <class D, int l>
  auto codes(int g) const { return D::of(packed_line<bits, l>(group_at<format>(block, g))); }

  template <class D>
  auto codes(int g, int l) const {
    const uint8_t* group = group_at<format>(block, g);
    I w = packed_line<bits, 0>(group);
    each<kLines - 1>([&](auto i) INLINED {
      if (l == i + 1) w = packed_line<bits, i + 1>(group);
    });
    return D::of(w);
  }
};

// or unpacked.
struct InCache {
  const Unpacked& u;
  const uint8_t* ahead;

  F d(int g) const { return load(u.d + g * kLanes); }
  F m(int g) const { return load(u.m + g * kLanes); }
  I z(int g) const { return load(u.z + g * kLanes); }

  template <class D, int l>
  auto codes(int g) const { return codes<D>(g, l); }

  template <class D>
  auto codes(int g, int l) const { return D::of(load_line(u.codes + g * kGroupBytes + l * kLineBytes)); }
};

template <Format format>
inline void fetch_group(const uint8_t* ahead, int g) {
  constexpr int bytes = info(format).tile_bytes() * kGroup / info(format).span;  // with its share of the scales
  if (!ahead) return;
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + g * bytes + i, 0, 3);
}

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
    const InImage<format> from{block, nullptr};
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

// Sums of products of MT rows with `count` lines of group g from `first` on, as integers of Dot's own size.
template <class D, int first, int count, class From, int MT>
INLINED inline void add_lines(const From& from, int g, const int8_t* low, int k, typename D::Sum (&sum)[MT]) {
  each<count>([&](auto i) INLINED {
    constexpr int l = first + i;
    const auto w = from.template codes<D, l>(g);
    for (int m = 0; m < MT; m++) sum[m] = D::add(sum[m], w, four(low + (long)m * k, g * kLines + l));
  });
}

constexpr int least(int a, int b) { return a < b ? a : b; }

// sum of t * (low + 255 * high)
template <int pairs>
inline I minima(const Unpacked& u, const Pair<int16_t>* low, const Pair<int16_t>* high, bool has_high) {
  I sum = iset1(0), more = sum;
  for (int j = 0; j < pairs; j++) sum = fma(broadcast(low + j), load(u.t + j * kLanes), sum);
  if (!has_high) return sum;
  for (int j = 0; j < pairs; j++) more = fma(broadcast(high + j), load(u.t + j * kLanes), more);
  return iadd(sum, isub(shift_left<8>(more), more));
}

// What a block of a format of 256 adds to the results of MT rows.
template <class D, Format format, class From, int MT>
static inline void add_block(const Unpacked& u, const From& from, const Inputs& a, int block, F (&f)[MT]) {
  constexpr FormatInfo of = info(format);
  constexpr int lines = of.scale_group / 4, step = least(D::kLines, lines);
  I total[MT];
  for (int m = 0; m < MT; m++) total[m] = iset1(0);
  const int8_t* low = a.low + block * kBlock;
  for (int g = 0; g < kBlock / kGroup; g++) {
    fetch_group<format>(from.ahead, g);
    each<kLines / step>([&](auto i) INLINED {
      constexpr int first = i * step;
      typename D::Sum sum[MT];
      for (int m = 0; m < MT; m++) sum[m] = D::zero();
      add_lines<D, first, step>(from, g, low, a.k, sum);
      const I s = load(u.s + (g * kLines + first) / lines * kLanes);
      for (int m = 0; m < MT; m++) total[m] = D::fold(total[m], sum[m], s);
    });
  }
  const F d = load(u.d), dm = load(u.m);
  for (int m = 0; m < MT; m++) {
    const Inputs row = a.row(m);
    const Inputs::Block& b = row.block[block];
    if (D::kShift) total[m] = isub(total[m], imul(minima<4>(u, b.low32, b.high32, false), iset1(D::kShift)));
    F p = to_float(total[m]);
    if (b.marks) {
      I high = iset1(0);
      for (uint64_t marks = b.marks; marks; marks &= marks - 1) {
        const int l = __builtin_ctzll(marks);
        const typename D::Sum sum =
            D::add(D::zero(), from.template codes<D>(l / kLines, l % kLines), four(row.high + block * kBlock, l));
        high = D::fold(high, sum, load(u.s + l / lines * kLanes));
      }
      if (D::kShift) high = isub(high, imul(minima<4>(u, b.high32, b.high32, false), iset1(D::kShift)));
      p = fma(to_float(high), set1(255.0f), p);
    }
    f[m] = fma(p, mul(d, set1(b.scale)), f[m]);
    if (of.has_minima || of.offset) {
      const I t = of.scale_group == 16 ? minima<8>(u, b.low16, b.high16, b.marks)
                                       : minima<4>(u, b.low32, b.high32, b.marks);
      f[m] = fma(to_float(t), mul(dm, set1(-b.scale)), f[m]);
    }
  }
}

// The same of a smaller format: `groups` of 32.
template <class D, Format format, class From, int MT>
static inline void add_groups(const From& from, int groups, const Inputs& a, int block, F (&f)[MT]) {
  constexpr FormatInfo of = info(format);
  constexpr int step = least(D::kLines, kLines);
  F part[MT];
  for (int m = 0; m < MT; m++) part[m] = set1(0.0f);
  const int8_t* low = a.low + block * kBlock;
  const Inputs::Block* blocks = a.block + block;
  for (int g = 0; g < groups; g++) {
    fetch_group<format>(from.ahead, g);
    I total[MT];
    each<kLines / step>([&](auto i) INLINED {
      typename D::Sum sum[MT];
      for (int m = 0; m < MT; m++) sum[m] = D::zero();
      add_lines<D, i * step, step>(from, g, low, a.k, sum);
      for (int m = 0; m < MT; m++) total[m] = i ? iadd(total[m], D::total(sum[m])) : D::total(sum[m]);
    });
    const F d = from.d(g), low_end = of.has_minima ? from.m(g) : d;
    for (int m = 0; m < MT; m++) {
      const Inputs::Block& b = blocks[m * a.blocks()];
      if (D::kShift) total[m] = isub(total[m], iset1(D::kShift * half_of((Pair<int16_t>*)b.low32, g)));
      if (of.offset) total[m] = isub(total[m], iset1(of.offset * b.sum[g]));
      if (of.has_zeros) total[m] = isub(total[m], imul(from.z(g), iset1(b.sum[g])));
      part[m] = fma(to_float(total[m]), d, part[m]);
      if (of.has_minima) part[m] = fma(set1((float)b.sum[g]), low_end, part[m]);
    }
  }
  for (int m = 0; m < MT; m++) {
    const Inputs::Block& b = blocks[m * a.blocks()];
    if (b.marks) {
      F high = set1(0.0f);
      const int8_t* parts = a.high + (long)m * a.k + block * kBlock;
      for (uint64_t marks = b.marks; marks; marks &= marks - 1) {
        const int l = __builtin_ctzll(marks);
        const int32_t v = four(parts, l);
        I sum = D::total(D::add(D::zero(), from.template codes<D>(l / kLines, l % kLines), v));
        if (D::kShift) {
          const int8_t* bytes = parts + 4 * l;
          sum = isub(sum, iset1(D::kShift * (bytes[0] + bytes[1] + bytes[2] + bytes[3])));
        }
        high = fma(to_float(sum), from.d(l / kLines), high);
      }
      part[m] = fma(high, set1(255.0f), part[m]);
    }
    f[m] = fma(part[m], set1(b.scale), f[m]);
  }
}

template <class D, Format format, int MT, class From>
static void block_rows(const Unpacked& u, const From& from, int groups, const Inputs& a, int block, float* results) {
  F f[MT];
  for (int m = 0; m < MT; m++) f[m] = load(results + m * kLanes);
  if constexpr (!info(format).is_block())
    add_groups<D, format>(from, groups, a, block, f);
  else
    add_block<D, format>(u, from, a, block, f);
  for (int m = 0; m < MT; m++) store(results + m * kLanes, f[m]);
}

// At most MT rows.
template <class D, Format format, int MT, class From>
static void last_rows(int rows, const Unpacked& u, const From& from, int groups, const Inputs& a, int block,
                      float* results) {
  if (rows == MT) return block_rows<D, format, MT>(u, from, groups, a, block, results);
  if constexpr (MT > 1) last_rows<D, format, MT - 1>(rows, u, from, groups, a, block, results);
}

template <class D, Format format, class From>
static void panel_rows(int rows, const Unpacked& u, From from, int groups, const Inputs& a, int block, float* results) {
  int m = 0;
  for (; m + kRowBlock <= rows; m += kRowBlock) {
    block_rows<D, format, kRowBlock>(u, from, groups, a.row(m), block, results + m * kLanes);
    from.ahead = nullptr;
  }
  if (m < rows)
    last_rows<D, format, kRowBlock - 1>(rows - m, u, from, groups, a.row(m), block, results + m * kLanes);
}

// One tile with the rows of a panel.
template <class D, Format format>
static void tile_rows(const Gemm& g, const uint8_t* tile, int first, int rows, float* out) {
  constexpr FormatInfo of = info(format);
  alignas(64) float results[kPanel * kLanes];
  for (int m = 0; m < rows; m++) store(results + m * kLanes, set1(0.0f));
  Unpacked u;
  for (int block = 0; block < g.a.blocks(); block++) {
    const int left = (g.a.k - block * kBlock) / kGroup, groups = left < kBlock / kGroup ? left : kBlock / kGroup;
    const Inputs a = g.a.row(first);
    if (!of.has_table && rows <= kDirectRows) {
      if (of.is_block()) unpack_scales<D, format>(tile, groups, u);
      const InImage<format> from{tile, rows > 1 ? tile + kAhead : nullptr};  // the machine itself sees what one row reads
      last_rows<D, format, kDirectRows>(rows, u, from, groups, a, block, results);
    } else if constexpr (of.bits == 8) {
      panel_rows<D, format>(rows, u, InImage<format>{tile, tile + kAhead}, groups, a, block, results);
    } else {
      unpack_codes<format>(tile, groups, u);
      unpack_scales<D, format>(tile, groups, u);
      panel_rows<D, format>(rows, u, InCache{u, tile + kAhead}, groups, a, block, results);
    }
    tile += of.is_block() ? of.tile_bytes() : groups * kGroup / of.span * of.tile_bytes();
    if (g.prefetch) g.prefetch->fetch();
  }
  for (int m = 0; m < rows; m++) write(out + (long)m * g.ldo, load(results + m * kLanes), g.then);
}

template <Format format>
static void gemm_of(const Gemm& g) {
  constexpr FormatInfo of = info(format);
  using D = Dot<of.has_table ? 8 : of.bits>;
  const long tile_bytes = (long)g.a.k / of.span * of.tile_bytes();
  for (int first = 0; first < g.rows; first += kPanel) {
    const int rows = g.rows - first < kPanel ? g.rows - first : kPanel;
    for (int t = 0; t < g.num_tiles; t++)
      tile_rows<D, format>(g, g.tiles + t * tile_bytes, first, rows, g.out + (long)first * g.ldo + t * kLanes);
  }
  end_writes(g.then);
}

static void gemm(const Gemm& g) {
  switch (g.format) {
    case Format::a8: return gemm_of<Format::a8>(g);
    case Format::q4_0: return gemm_of<Format::q4_0>(g);
    case Format::q4_1: return gemm_of<Format::q4_1>(g);
    case Format::q5_0: return gemm_of<Format::q5_0>(g);
    case Format::q5_1: return gemm_of<Format::q5_1>(g);
    case Format::q8_0: return gemm_of<Format::q8_0>(g);
    case Format::iq4_nl: return gemm_of<Format::iq4_nl>(g);
    case Format::q2_k: return gemm_of<Format::q2_k>(g);
    case Format::q3_k: return gemm_of<Format::q3_k>(g);
    case Format::q4_k: return gemm_of<Format::q4_k>(g);
    case Format::q5_k: return gemm_of<Format::q5_k>(g);
    case Format::q6_k: return gemm_of<Format::q6_k>(g);
    case Format::iq4_xs: return gemm_of<Format::iq4_xs>(g);
    case Format::z4_32: return gemm_of<Format::z4_32>(g);
    case Format::z4_64: return gemm_of<Format::z4_64>(g);
    case Format::z4_128: return gemm_of<Format::z4_128>(g);
    case Format::f32: case Format::f16: case Format::bf16: break;
  }
  __builtin_unreachable();
}

}  // namespace KERNEL_NS
