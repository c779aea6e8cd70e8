// Products of coded weights with rounded inputs on a tile unit (Tiles of kernels_amx.cpp).
//
// A tile's block of 256 inputs is unpacked once for a panel of rows, and multiplied with strips of at most 16 of them. In
// formats of 256 the codes are multiplied with their scales before: s * u in two planes of bytes, so that the unit sums a
// whole block. Smaller formats take a sum per 32. High parts of outliers are a second product with the same weights,
// where any row of the strip has some. While the unit multiplies, sums of the step before are scaled.
#pragma once
#include <type_traits>

#include "gemm_shared.h"
#include "sleep.h"

namespace KERNEL_NS {

constexpr int kPanel = 128;  // rows for which a block is unpacked
constexpr int kStrip = 16;
constexpr int kTurns = 4;    // at most, in which the four tiles of sums are filled and stored: two groups each

struct Scales {  // as products of 16 bits take them
  static int32_t scale_word(int s) { return (s & 0xffff) | s << 16; }
};

struct Planes : Unpacked {  // codes: the first plane, or codes without their offset
  uint8_t second[kLanes * kBlock];
};

// Tiles 0 to 3 are sums, 4 and 5 low and high parts of inputs, 6 and 7 weights.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  TileConfig(int strip, int inputs) {
    for (int t = 0; t < 8; t++) bytes[t] = t == 4 || t == 5 ? inputs : 64, rows[t] = t < 6 ? strip : inputs / 4;
  }
};

static constinit thread_local int configured = 0;  // for which strips and inputs; 0: not at all

static void configure(int strip, int inputs) {
  if (configured == (strip << 8 | inputs)) return;
  const TileConfig config(strip, inputs);
  Tiles::configure(&config);
  configured = strip << 8 | inputs;
  before_sleep = [] { Tiles::release(), configured = 0; };
}

// A strip of rows with one tile's block.
struct Step {
  const Planes* u;
  const uint8_t *block, *ahead;
  Inputs a;
  int at, groups;   // the block among the inputs, and what is in it
  int begin, rows;  // of the strip's rows, those that no strip before it had
  float* results;
  uint64_t marks;                       // of any row
  int32_t (*sums)[4][kStrip * kLanes];  // of each turn: of both planes, or groups; then the same of high parts

  const int8_t* low(int g) const { return a.low + at * kBlock + g * kGroup; }
  const int8_t* high(int g) const { return a.high + at * kBlock + g * kGroup; }
  const Inputs::Block& inputs(int r) const { return a.row(r).block[at]; }
};

inline void load_inputs(const Step& s, int g, bool has_high) {
  Tiles::load<4>(s.low(g), s.a.k);
  if (has_high) Tiles::load<5>(s.high(g), s.a.k);
}

template <class Byte, int i>
inline void multiply_lines(const uint8_t* lines, bool has_high) {
  Tiles::load<6 + i>(lines, kLineBytes);
  Tiles::multiply<Byte, i, 4, 6 + i>();
  if (has_high) Tiles::multiply<Byte, 2 + i, 5, 6 + i>();
}

// Formats of 256. s * u = first + (second << kShift). Where no s is negative its bits are shared out, and the products of
// four bytes by one number never carry: one instruction for a line. Else it is the product that is cut.
template <Format format>
struct InBlocks {
  static constexpr FormatInfo of = info(format);
  static constexpr bool kSigned = !of.has_minima;
  static constexpr int kPlanes = of.packs_scales() ? 1 : 2, kShift = kSigned ? 7 : 3, kInputs = 64;
  using Byte = std::conditional_t<kSigned, int8_t, uint8_t>;

  static void unpack(const uint8_t* block, int groups, Planes& u) {
    unpack_codes<format>(block, groups, u);
    unpack_scales<Scales, format>(block, groups, u);
    for (int l = 0; l < kBlock / 4; l++) {
      Words s, first, second;  // of its own, so that compilers vectorise what follows
      std::memcpy(s, u.s + l * 4 / of.scale_group * kLanes, sizeof s);
      std::memcpy(first, u.codes + l * kLineBytes, sizeof first);
      for (int i = 0; i < kLineBytes / 2; i++) split(s[i], first[i], second[i]);
      std::memcpy(u.codes + l * kLineBytes, first, sizeof first);
      if constexpr (kPlanes == 2) std::memcpy(u.second + l * kLineBytes, second, sizeof second);
    }
  }

  using Words = uint16_t[kLineBytes / 2];  // a line's bytes by two

  static void split(uint16_t s, uint16_t& first, uint16_t& second) {
    const uint16_t u = first;
    if constexpr (kPlanes == 1) {
      first = u * s;
    } else if constexpr (!kSigned) {
      first = u * (s & 7), second = u * (s >> 3);
    } else {
      const int16_t even = (int16_t)(int8_t)u * (int16_t)s, odd = ((int16_t)u >> 8) * (int16_t)s;
      first = (even & 127) | (odd & 127) << 8, second = (even >> 7 & 255) | odd >> 7 << 8;
    }
  }

  static int turns(int) { return 1; }

  static void multiply(const Step& s, int) {
    for (int g = 0; g < kBlock / kGroup; g += 2) {
      const bool has_high = s.marks >> kLines * g & 0xffff;
      fetch_group<format>(s.ahead, g), fetch_group<format>(s.ahead, g + 1);
      load_inputs(s, g, has_high);
      multiply_lines<Byte, 0>(s.u->codes + g * kGroupBytes, has_high);
      if constexpr (kPlanes == 2) multiply_lines<Byte, 1>(s.u->second + g * kGroupBytes, has_high);
    }
  }

  static void scale(const Step& s, int begin, int end) {
    const F d = load(s.u->d), dm = load(s.u->m);
    for (int r = begin; r < end; r++) {
      const auto sum = [&](int i) {
        const I first = load(s.sums[0][i] + r * kLanes);
        return kPlanes == 1 ? first : iadd(first, shift_left<kShift>(load(s.sums[0][i + 1] + r * kLanes)));
      };
      const Inputs::Block& b = s.inputs(r);
      float* f = s.results + r * kLanes;
      store(f, add_sums<format>(*s.u, d, dm, b, sum(0), b.marks ? sum(2) : iset1(0), load(f)));
    }
  }
};

// Smaller formats. Codes less their offset or zero are signed bytes, so that sums are those of the definition.
template <Format format>
struct InGroups {
  static constexpr FormatInfo of = info(format);
  static constexpr int kInputs = 32;
  using Byte = int8_t;

  static void unpack(const uint8_t* block, int groups, Planes& u) {
    unpack_scales<Scales, format>(block, groups, u);
    if constexpr (of.bits < 8) unpack_codes<format>(block, groups, u);
    if constexpr (of.offset || of.has_zeros)
      for (int g = 0; g < groups; g++) {
        uint32_t offsets[kLanes], line[kLanes];  // four bytes that are less than 128 each
        for (int i = 0; i < kLanes; i++) offsets[i] = 0x01010101u * (of.offset + (of.has_zeros ? u.z[g * kLanes + i] : 0));
        for (int l = 0; l < kLines; l++) {
          uint8_t* codes = u.codes + g * kGroupBytes + l * kLineBytes;
          std::memcpy(line, codes, sizeof line);
          for (int i = 0; i < kLanes; i++) line[i] = ((line[i] | 0x80808080u) - offsets[i]) ^ 0x80808080u;
          std::memcpy(codes, line, sizeof line);
        }
      }
  }

  static int turns(int groups) { return (groups + 1) / 2; }

  template <int i>
  static void multiply_group(const Step& s, int g) {
    if (g >= s.groups) return;
    const bool has_high = s.marks >> kLines * g & 255;
    fetch_group<format>(s.ahead, g);
    load_inputs(s, g, has_high);
    multiply_lines<Byte, i>(of.bits == 8 ? group_at<format>(s.block, g) : s.u->codes + g * kGroupBytes, has_high);
  }

  static void multiply(const Step& s, int turn) {
    multiply_group<0>(s, 2 * turn);
    multiply_group<1>(s, 2 * turn + 1);
  }

  static void scale(const Step& s, int begin, int end) {
    const Planes& u = *s.u;
    for (int r = begin; r < end; r++) {
      const auto sum = [&](int g, int high) { return to_float(load(s.sums[g / 2][g % 2 + high] + r * kLanes)); };
      const Inputs::Block& b = s.inputs(r);
      F part = set1(0.0f), more = part;
      for (int g = 0; g < s.groups; g++) {
        part = fma(sum(g, 0), load(u.d + g * kLanes), part);
        if (of.has_minima) part = fma(set1(b.sum[g]), load(u.m + g * kLanes), part);
      }
      if (b.marks) {
        for (int g = 0; g < s.groups; g++) more = fma(sum(g, 2), load(u.d + g * kLanes), more);  // of 0: as it is
        part = fma(more, set1(255.0f), part);
      }
      float* f = s.results + r * kLanes;
      store(f, fma(part, set1(b.scale), load(f)));
    }
  }
};

// What a panel works with: some 60 KB.
struct alignas(64) Workspace {
  Planes u[2];  // of the block at hand and the one before it
  int32_t sums[2][kTurns][4][kStrip * kLanes];
  float results[kPanel * kLanes];
};

template <class Of>
static void run_turns(const Step& s, const Step& last) {
  const int turns = Of::turns(s.groups);
  for (int turn = 0; turn < turns; turn++) {
    Tiles::zero<0>(), Tiles::zero<1>();
    if (s.marks) Tiles::zero<2>(), Tiles::zero<3>();
    Of::multiply(s, turn);
    const int rows = last.rows - last.begin;
    Of::scale(last, last.begin + rows * turn / turns, last.begin + rows * (turn + 1) / turns);
    Tiles::store<0>(s.sums[turn][0], kLineBytes), Tiles::store<1>(s.sums[turn][1], kLineBytes);
    if (s.marks) Tiles::store<2>(s.sums[turn][2], kLineBytes), Tiles::store<3>(s.sums[turn][3], kLineBytes);
  }
}

// One tile with the rows of a panel, in strips of the same height: the last one may begin within the one before it.
template <Format format, class Of>
static void tile_rows(const Gemm& g, const uint8_t* tile, int first, int rows, int height, Workspace& work) {
  constexpr FormatInfo of = info(format);
  for (int m = 0; m < rows; m++) store(work.results + m * kLanes, set1(0.0f));
  Step last{};
  last.u = work.u;
  for (int block = 0, step = 0; block < g.a.blocks(); block++) {
    const int left = (g.a.k - block * kBlock) / kGroup, groups = left < kBlock / kGroup ? left : kBlock / kGroup;
    Planes& u = work.u[block % 2];
    Of::unpack(tile, groups, u);
    for (int strip = 0; strip < rows; strip += height, step++) {
      const int from = strip + height <= rows ? strip : rows - height;
      Step s{&u, tile, strip ? nullptr : tile + kAhead, g.a.row(first + from), block, groups, strip - from, height,
             work.results + from * kLanes, 0, work.sums[step % 2]};
      for (int r = 0; r < height; r++) s.marks |= s.inputs(r).marks;
      run_turns<Of>(s, last);
      last = s;
    }
    tile += of.is_block() ? of.tile_bytes() : groups * kGroup / of.span * of.tile_bytes();
    if (g.prefetch) g.prefetch->fetch();
  }
  Of::scale(last, last.begin, last.rows);
}

template <Format format>
static void gemm_of(const Gemm& g) {
  constexpr FormatInfo of = info(format);
  using Of = std::conditional_t<of.is_block(), InBlocks<format>, InGroups<format>>;
  Workspace work;
  for (int first = 0; first < g.rows; first += kPanel) {
    const int rows = g.rows - first < kPanel ? g.rows - first : kPanel, strips = (rows + kStrip - 1) / kStrip,
              height = (rows + strips - 1) / strips;
    configure(height, Of::kInputs);
    for (int t = 0; t < g.num_tiles; t++) {
      tile_rows<format, Of>(g, g.tiles + t * ((long)g.a.k / of.span * of.tile_bytes()), first, rows, height, work);
      float* out = g.out + (long)first * g.ldo + t * kLanes;
      for (int m = 0; m < rows; m++) write(out + (long)m * g.ldo, load(work.results + m * kLanes), g.then);
    }
  }
  end_writes(g.then);
}

void gemm(const Gemm& g) {
  with_format(g.format, [&](auto format) { gemm_of<format>(g); });
}

}  // namespace KERNEL_NS
