// Products of coded weights with rounded inputs, written once over Dot<bits> of vec_*.h.
//
// A tile's block of 256 inputs is unpacked to bytes once, into the first-level cache, whatever its format, and multiplied
// with a panel of rows. A format is what unpacks it and which of two sums it takes: with integer scales in the block, or
// with half scales per 32.
#pragma once
#include <cstring>

#include "kernels_impl.h"

namespace KERNEL_NS {

constexpr int kPanel = 64;      // rows that are multiplied with a block while it is unpacked
constexpr int kAhead = 4096;    // bytes beyond the block at hand that are fetched
constexpr int kBlockLines = kBlock / 4;

// One tile's block as the products read it.
struct alignas(64) Unpacked {
  uint8_t codes[kBlockLines * kLineBytes];
  const uint8_t* line[kBlock / kGroup];  // of each group: here, or in the image
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

template <int bits>
inline void unpack_codes(const uint8_t* in, int stride, int groups, bool has_table, Unpacked& u) {
  for (int g = 0; g < groups; g++, in += stride) {
    uint8_t* out = u.codes + g * kGroupBytes;
    for (int i = 0; i < stride; i += 64) __builtin_prefetch(in + kAhead + i, 0, 3);
    if (bits == 8) {
      u.line[g] = in;
      continue;
    }
    u.line[g] = out;
    unpack_group<bits>(in, out);
    if (has_table) look_up(kTable, out, kGroupBytes);
  }
}

template <class D, Format format>
static void unpack_block(const uint8_t* in, int groups, Unpacked& u) {
  constexpr FormatInfo of = info(format);
  if constexpr (of.has_zeros) {
    constexpr int in_span = of.span / kGroup;
    for (int g = 0; g < groups; g += in_span, in += of.tile_bytes()) {
      const uint8_t* z = in + of.code_bytes();
      const F d = load_half((const uint16_t*)(z + of.scale_bytes()));
      for (int i = 0; i < in_span; i++) {
        const uint8_t* codes = in + i * kGroupBytes / 2;
        for (int b = 0; b < kGroupBytes / 2; b += 64) __builtin_prefetch(codes + kAhead + b, 0, 3);
        u.line[g + i] = u.codes + (g + i) * kGroupBytes;
        unpack_group<4>(codes, u.codes + (g + i) * kGroupBytes);
        store(u.d + (g + i) * kLanes, d);
        for (int l = 0; l < kLanes; l++) u.z[(g + i) * kLanes + l] = z[l];
      }
    }
  } else if constexpr (of.span == kGroup) {
    unpack_codes<of.bits>(in, of.tile_bytes(), groups, of.has_table, u);
    for (int g = 0; g < groups; g++, in += of.tile_bytes()) {
      const uint16_t* half = (const uint16_t*)(in + of.code_bytes());
      store(u.d + g * kLanes, load_half(half));
      if (of.has_minima) store(u.m + g * kLanes, load_half(half + kLanes));
    }
  } else {
    constexpr int scales = of.scales();
    unpack_codes<of.bits>(in, kGroupBytes * of.bits / 8, kBlock / kGroup, of.has_table, u);
    const uint8_t *s = in + of.code_bytes(), *t = s + scales * kLanes;
    const uint16_t* half = (const uint16_t*)(s + of.scale_bytes());
    for (int i = 0; i < scales * kLanes; i++)
      u.s[i] = D::scale_word(of.packs_scales() ? s[i] & 15 : (int8_t)s[i]);
    for (int g = 0; g < scales; g += 2)
      for (int i = 0; i < kLanes; i++) {
        const int a = g * kLanes + i, b = a + kLanes;
        u.t[g / 2 * kLanes + i] = of.packs_scales() ? Pair<int16_t>{(int16_t)(s[a] >> 4), (int16_t)(s[b] >> 4)}
                                  : of.has_minima   ? Pair<int16_t>{t[a], t[b]}
                                                    : Pair<int16_t>{(int8_t)s[a], (int8_t)s[b]};
      }
    const F d = load_half(half);
    store(u.d, d);
    store(u.m, of.has_minima ? load_half(half + kLanes) : mul(d, set1((float)of.offset)));
  }
}

// Sums of products of MT rows with lines [first, last) of the block, as integers of Dot's own size.
template <class D, int MT>
inline void add_lines(const Unpacked& u, int first, int last, const int8_t* low, int k, typename D::Sum (&sum)[MT]) {
  const uint8_t* codes = u.line[first / kLines] + first % kLines * kLineBytes;
#pragma GCC unroll 8
  for (int l = first; l < last; l++, codes += kLineBytes) {
    const auto w = D::load(codes);
    for (int m = 0; m < MT; m++) sum[m] = D::add(sum[m], w, four(low + (long)m * k, l));
  }
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
template <class D, Format format, int MT>
static inline void add_block(const Unpacked& u, int, const Inputs& a, int block, F (&f)[MT]) {
  constexpr FormatInfo of = info(format);
  constexpr int lines = of.scale_group / 4, step = least(D::kLines, lines);
  I total[MT];
  for (int m = 0; m < MT; m++) total[m] = iset1(0);
  const int8_t* low = a.low + block * kBlock;
  for (int l = 0; l < kBlockLines; l += step) {
    typename D::Sum sum[MT];
    for (int m = 0; m < MT; m++) sum[m] = D::zero();
    add_lines<D>(u, l, l + step, low, a.k, sum);
    const I s = load(u.s + l / lines * kLanes);
    for (int m = 0; m < MT; m++) total[m] = D::fold(total[m], sum[m], s);
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
            D::add(D::zero(), D::load(u.line[l / kLines] + l % kLines * kLineBytes), four(row.high + block * kBlock, l));
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
template <class D, Format format, int MT>
static inline void add_groups(const Unpacked& u, int groups, const Inputs& a, int block, F (&f)[MT]) {
  constexpr FormatInfo of = info(format);
  constexpr int step = least(D::kLines, kLines);
  F part[MT];
  for (int m = 0; m < MT; m++) part[m] = set1(0.0f);
  const int8_t* low = a.low + block * kBlock;
  const Inputs::Block* blocks = a.block + block;
  for (int g = 0; g < groups; g++) {
    I total[MT];
    for (int l = 0; l < kLines; l += step) {
      typename D::Sum sum[MT];
      for (int m = 0; m < MT; m++) sum[m] = D::zero();
      add_lines<D>(u, g * kLines + l, g * kLines + l + step, low, a.k, sum);
      for (int m = 0; m < MT; m++) total[m] = l ? iadd(total[m], D::total(sum[m])) : D::total(sum[m]);
    }
    const F d = load(u.d + g * kLanes), low_end = load(u.m + g * kLanes);
    for (int m = 0; m < MT; m++) {
      const Inputs::Block& b = blocks[m * a.blocks()];
      if (D::kShift) total[m] = isub(total[m], iset1(D::kShift * half_of((Pair<int16_t>*)b.low32, g)));
      if (of.offset) total[m] = isub(total[m], iset1(of.offset * b.sum[g]));
      if (of.has_zeros) total[m] = isub(total[m], imul(load(u.z + g * kLanes), iset1(b.sum[g])));
      part[m] = fma(to_float(total[m]), d, part[m]);
      if (of.has_minima) part[m] = fma(to_float(iset1(b.sum[g])), low_end, part[m]);
    }
  }
  for (int m = 0; m < MT; m++) {
    const Inputs::Block& b = blocks[m * a.blocks()];
    if (b.marks) {
      F high = set1(0.0f);
      const int8_t* from = a.high + (long)m * a.k + block * kBlock;
      for (uint64_t marks = b.marks; marks; marks &= marks - 1) {
        const int l = __builtin_ctzll(marks);
        const int32_t v = four(from, l);
        I sum = D::total(D::add(D::zero(), D::load(u.line[l / kLines] + l % kLines * kLineBytes), v));
        if (D::kShift) {
          const int8_t* bytes = from + 4 * l;
          sum = isub(sum, iset1(D::kShift * (bytes[0] + bytes[1] + bytes[2] + bytes[3])));
        }
        high = fma(to_float(sum), load(u.d + l / kLines * kLanes), high);
      }
      part[m] = fma(high, set1(255.0f), part[m]);
    }
    f[m] = fma(part[m], set1(b.scale), f[m]);
  }
}

template <class D, Format format, int MT>
static void block_rows(const Unpacked& u, int groups, const Inputs& a, int block, float* results) {
  F f[MT];
  for (int m = 0; m < MT; m++) f[m] = load(results + m * kLanes);
  if constexpr (!info(format).is_block())
    add_groups<D, format, MT>(u, groups, a, block, f);
  else
    add_block<D, format, MT>(u, groups, a, block, f);
  for (int m = 0; m < MT; m++) store(results + m * kLanes, f[m]);
}

template <class D, Format format, int MT = kRowBlock>
static void last_rows(int rows, const Unpacked& u, int groups, const Inputs& a, int block, float* results) {
  if (rows == MT) return block_rows<D, format, MT>(u, groups, a, block, results);
  if constexpr (MT > 1) last_rows<D, format, MT - 1>(rows, u, groups, a, block, results);
}

// One tile with the rows of a panel.
template <class D, Format format>
static void tile_rows(const Gemm& g, const uint8_t* tile, int first, int rows, float* out) {
  constexpr FormatInfo of = info(format);
  alignas(64) float results[kPanel * kLanes] = {};
  Unpacked u;
  for (int block = 0; block < g.a.blocks(); block++) {
    const int left = (g.a.k - block * kBlock) / kGroup, groups = left < kBlock / kGroup ? left : kBlock / kGroup;
    unpack_block<D, format>(tile, groups, u);
    tile += of.is_block() ? of.tile_bytes() : groups * kGroup / of.span * of.tile_bytes();
    int m = 0;
    for (; m + kRowBlock <= rows; m += kRowBlock)
      block_rows<D, format, kRowBlock>(u, groups, g.a.row(first + m), block, results + m * kLanes);
    if (m < rows) last_rows<D, format>(rows - m, u, groups, g.a.row(first + m), block, results + m * kLanes);
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
