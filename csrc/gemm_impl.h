// Products of coded weights with rounded inputs, written once over Dot<bits> of vec_*.h.
//
// A tile's block of 256 inputs is unpacked to bytes once, into the first-level cache, and multiplied with a panel of rows.
// For a row or two its codes are taken out of the image as they are needed, since nobody reads them again; those of 8 bits
// always, since they are bytes already, but where a Dot wants lines in pairs. A format is what unpacks it and which of two
// sums it takes: with integer scales in the block, or with half scales per 32.
#pragma once
#include <utility>

#include "kernels_impl.h"

namespace KERNEL_NS {

constexpr int kPanel = 64;      // rows that are multiplied with a block while it is unpacked
constexpr int kDirectRows = 2;  // so many do without

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

// Where the products read a block's codes: in the image, as one or two rows do, and all rows those of 8 bits; `ahead`, unless
// null, is fetched meanwhile, a group at a time: all lines of a block at once are more than a core can wait for.
template <Format format>
struct InImage : Heads<format> {
  static constexpr int bits = info(format).bits;
  const uint8_t* ahead;
  using Heads<format>::block;

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

  const uint8_t* line(int g, int l) const { return u.codes + g * kGroupBytes + l * kLineBytes; }
  template <class D>
  auto codes(int g, int l) const { return D::of(load_line(line(g, l))); }
};

// or, for a Dot that multiplies rows by two with lines by two, in pairs of lines.
struct InPairs : InCache {
  template <class D>
  auto codes(int g, int l) const { return D::of_pair(line(g, l / 2 * 2), l % 2); }
};

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

// Sums of products of MT rows with group g.
template <class D, int MT>
INLINED inline void sum_group(const InPairs& from, int g, const int8_t* low, int k, I (&total)[MT]) {
  typename D::template Pairs<MT> sum;
  sum.template add<kLines>(from.line(g, 0), low + g * kGroup, k);
  sum.rows(total);
}

// The same with a block of 256, times its scales.
template <class D, Format format, int MT>
INLINED inline void sum_block(const Unpacked& u, const InPairs& from, const int8_t* low, int k, I (&total)[MT]) {
  constexpr int lines = info(format).scale_group / 4;
  typename D::template Pairs<MT> all;
  for (int l = 0; l < kBlock / 4; l += lines) {
    if (l % kLines == 0) fetch_group<format>(from.ahead, l / kLines);
    typename D::template Pairs<MT> sum;
    sum.template add<lines>(from.line(0, l), low + 4 * l, k);
    all.fold(sum, u.s + l / lines * kLanes);
  }
  all.rows(total);
}

// What a block of a format of 256 adds to the results of MT rows.
template <class D, Format format, class From, int MT>
static inline void add_block(const Unpacked& u, const From& from, const Inputs& a, int block, F (&f)[MT]) {
  constexpr FormatInfo of = info(format);
  constexpr int lines = of.scale_group / 4, step = least(D::kLines, lines);
  I total[MT];
  const int8_t* low = a.low + block * kBlock;
  if constexpr (std::is_same_v<From, InPairs>) {
    sum_block<D, format>(u, from, low, a.k, total);
  } else {  // written out here: as a function of its own gcc would keep the sums in memory
    for (int m = 0; m < MT; m++) total[m] = iset1(0);
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
  }
  const F d = load(u.d), dm = load(u.m);
  for (int m = 0; m < MT; m++) {
    const Inputs row = a.row(m);
    const Inputs::Block& b = row.block[block];
    if (D::kShift) total[m] = isub(total[m], imul(minima<4>(u, b.low32, b.high32, false), iset1(D::kShift)));
    I high = iset1(0);
    for (uint64_t marks = b.marks; marks; marks &= marks - 1) {
      const int l = __builtin_ctzll(marks);
      const typename D::Sum sum =
          D::add(D::zero(), from.template codes<D>(l / kLines, l % kLines), four(row.high + block * kBlock, l));
      high = D::fold(high, sum, load(u.s + l / lines * kLanes));
    }
    if (D::kShift && b.marks) high = isub(high, imul(minima<4>(u, b.high32, b.high32, false), iset1(D::kShift)));
    f[m] = add_sums<format>(u, d, dm, b, total[m], high, f[m]);
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
  auto from_offset = [&](I sum, int inputs, int g) INLINED {  // as if codes had none; inputs: their sum
    if (D::kShift + of.offset) sum = isub(sum, iset1((D::kShift + of.offset) * inputs));
    return of.has_zeros ? isub(sum, imul(from.z(g), iset1(inputs))) : sum;
  };
  for (int g = 0; g < groups; g++) {
    fetch_group<format>(from.ahead, g);
    I total[MT];
    if constexpr (std::is_same_v<From, InPairs>)
      sum_group<D>(from, g, low, a.k, total);
    else
      each<kLines / step>([&](auto i) INLINED {
        typename D::Sum sum[MT];
        for (int m = 0; m < MT; m++) sum[m] = D::zero();
        add_lines<D, i * step, step>(from, g, low, a.k, sum);
        for (int m = 0; m < MT; m++) total[m] = i ? iadd(total[m], D::total(sum[m])) : D::total(sum[m]);
      });
    const F d = from.d(g), low_end = of.has_minima ? from.m(g) : d;
    for (int m = 0; m < MT; m++) {
      const Inputs::Block& b = blocks[m * a.blocks()];
      total[m] = from_offset(total[m], half_of(b.low32, g), g);
      part[m] = fma(to_float(total[m]), d, part[m]);
      if (of.has_minima) part[m] = fma(set1(b.sum[g]), low_end, part[m]);
    }
  }
  for (int m = 0; m < MT; m++) {
    const Inputs::Block& b = blocks[m * a.blocks()];
    if (b.marks) {
      F high = set1(0.0f);
      const int8_t* parts = a.high + (long)m * a.k + block * kBlock;
      for (uint64_t marks = b.marks; marks;) {
        const int g = __builtin_ctzll(marks) / kLines;
        I sum = iset1(0);
        for (; marks >> kLines * g & 255; marks &= marks - 1) {
          const int l = __builtin_ctzll(marks);
          sum = iadd(sum, D::total(D::add(D::zero(), from.template codes<D>(g, l % kLines), four(parts, l))));
        }
        high = fma(to_float(from_offset(sum, half_of(b.high32, g), g)), from.d(g), high);
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

// Codes as InPairs has them.
template <class D, Format format>
static void unpack_pairs(const uint8_t* block, int groups, Unpacked& u) {
  constexpr int bits = info(format).bits;
  if constexpr (bits < 8) unpack_codes<format>(block, groups, u);
  for (int g = 0; g < groups; g++) {
    uint8_t* out = u.codes + g * kGroupBytes;
    const uint8_t* in = bits == 8 ? group_at<format>(block, g) : out;
    for (int l = 0; l < kGroupBytes; l += 2 * kLineBytes) D::pair_lines(in + l, out + l);
  }
}

// One tile's block with the rows of a panel.
template <class D, Format format>
static void tile_block(const uint8_t* tile, int groups, const Inputs& a, int rows, int block, float* results) {
  constexpr FormatInfo of = info(format);
  const uint8_t* ahead = tile + kAhead;
  Unpacked u;
  if (!of.has_table && rows <= kDirectRows) {
    if (of.is_block()) unpack_scales<D, format>(tile, groups, u);
    const InImage<format> from{{tile}, rows > 1 ? ahead : nullptr};  // the machine itself sees what one row reads
    return last_rows<D, format, kDirectRows>(rows, u, from, groups, a, block, results);
  }
  if constexpr (requires { D::kPairRows; })
    if (rows >= D::kPairRows) {
      unpack_pairs<D, format>(tile, groups, u);
      unpack_scales<D, format>(tile, groups, u);
      return panel_rows<D, format>(rows, u, InPairs{u, ahead}, groups, a, block, results);
    }
  if constexpr (of.bits == 8) {
    panel_rows<D, format>(rows, u, InImage<format>{{tile}, ahead}, groups, a, block, results);
  } else {
    unpack_codes<format>(tile, groups, u);
    unpack_scales<D, format>(tile, groups, u);
    panel_rows<D, format>(rows, u, InCache{u, ahead}, groups, a, block, results);
  }
}

// One tile with the rows of a panel.
template <class D, Format format>
static void tile_rows(const Gemm& g, const uint8_t* tile, int first, int rows, float* out) {
  constexpr FormatInfo of = info(format);
  alignas(64) float results[kPanel * kLanes];
  for (int m = 0; m < rows; m++) store(results + m * kLanes, set1(0.0f));
  for (int block = 0; block < g.a.blocks(); block++) {
    const int left = (g.a.k - block * kBlock) / kGroup, groups = left < kBlock / kGroup ? left : kBlock / kGroup;
    tile_block<D, format>(tile, groups, g.a.row(first), rows, block, results);
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
  with_format(g.format, [&](auto format) { gemm_of<format>(g); });
}

}  // namespace KERNEL_NS
