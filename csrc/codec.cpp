#include "codec.h"

#include <algorithm>
#include <cstring>

#include "half.h"

static uint16_t half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return h;
}

static bool is_finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// 4-bit codes of 32 weights: the first half in the low, the second in the high halves of 16 bytes.
static void decode_nibbles(const uint8_t* q, uint8_t* u) {
  for (int i = 0; i < 16; i++) u[i] = q[i] & 15, u[i + 16] = q[i] >> 4;
}

static void decode_fifth_bits(const uint8_t* bits, uint8_t* u) {
  uint32_t high;
  std::memcpy(&high, bits, 4);
  for (int i = 0; i < 32; i++) u[i] |= (high >> i & 1) << 4;
}

// The 6-bit scales and minima of q4_k and q5_k.
static void decode_sixes(const uint8_t* p, RowSpan& x) {
  for (int i = 0; i < 4; i++) {
    x.s[i] = p[i] & 63, x.t[i] = p[i + 4] & 63;
    x.s[i + 4] = (p[i + 8] & 15) | p[i] >> 6 << 4;
    x.t[i + 4] = p[i + 8] >> 4 | p[i + 4] >> 6 << 4;
  }
}

// 2-bit codes of 256 weights: 4 times 32 in each half's 32 bytes.
static void decode_pairs(const uint8_t* q, uint8_t* u) {
  for (int i = 0; i < 256; i++) u[i] = q[i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3;
}

static void decode_q2_k(const uint8_t* b, RowSpan& x) {
  for (int i = 0; i < 16; i++) x.s[i] = b[i] & 15, x.t[i] = b[i] >> 4;
  decode_pairs(b + 16, x.u);
  x.d = half_at(b + 80), x.m = half_at(b + 82);
}

static void decode_q3_k(const uint8_t* b, RowSpan& x) {
  const uint8_t *high = b, *scales = b + 96;
  decode_pairs(b + 32, x.u);
  for (int i = 0; i < 256; i++) x.u[i] |= (high[i % 32] >> i / 32 & 1) << 2;
  for (int i = 0; i < 16; i++)
    x.s[i] = ((i < 8 ? scales[i] & 15 : scales[i - 8] >> 4) | (scales[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32;
  x.d = half_at(b + 108);
}

static void decode_q45_k(const uint8_t* b, bool five, RowSpan& x) {
  const uint8_t *high = b + 16, *q = b + (five ? 48 : 16);
  x.d = half_at(b), x.m = half_at(b + 2);
  decode_sixes(b + 4, x);
  for (int i = 0; i < 256; i++) {
    x.u[i] = q[i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15;
    if (five) x.u[i] |= (high[i % 32] >> i / 32 & 1) << 4;
  }
}

static void decode_q6_k(const uint8_t* b, RowSpan& x) {
  const uint8_t *low = b, *high = b + 128;
  for (int i = 0; i < 256; i++) {
    const int half = i / 128, part = i / 32 % 4, at = i % 32;
    x.u[i] = (low[half * 64 + part % 2 * 32 + at] >> part / 2 * 4 & 15) | (high[half * 32 + at] >> part * 2 & 3) << 4;
  }
  std::memcpy(x.s, b + 192, 16);
  x.d = half_at(b + 208);
}

static void decode_iq4_xs(const uint8_t* b, RowSpan& x) {
  const uint16_t high = half_at(b + 2);
  for (int i = 0; i < 8; i++) {
    x.s[i] = ((b[4 + i / 2] >> i % 2 * 4 & 15) | (high >> 2 * i & 3) << 4) - 32;
    decode_nibbles(b + 8 + 16 * i, x.u + 32 * i);
  }
  x.d = half_at(b);
}

// d, z, then the codes in pairs of neighbours.
static void decode_zeroed(Format f, const uint8_t* b, RowSpan& x) {
  x.d = half_at(b), x.t[0] = b[2];
  for (int i = 0; i < info(f).span / 2; i++) x.u[2 * i] = b[3 + i] & 15, x.u[2 * i + 1] = b[3 + i] >> 4;
}

static void decode_group(Format f, const uint8_t* b, RowSpan& x) {
  const FormatInfo& of = info(f);
  const uint8_t* q = b + (of.has_minima ? 4 : 2);
  x.d = half_at(b);
  if (of.has_minima) x.m = half_at(b + 2);
  if (of.bits == 8) {
    std::memcpy(x.u, q, kGroup);
  } else {
    decode_nibbles(q + (of.bits == 5 ? 4 : 0), x.u);
    if (of.bits == 5) decode_fifth_bits(q, x.u);
  }
}

bool decode(Format f, const uint8_t* b, RowSpan& x) {
  switch (f) {
    case Format::q2_k: decode_q2_k(b, x); break;
    case Format::q3_k: decode_q3_k(b, x); break;
    case Format::q4_k: decode_q45_k(b, false, x); break;
    case Format::q5_k: decode_q45_k(b, true, x); break;
    case Format::q6_k: decode_q6_k(b, x); break;
    case Format::iq4_xs: decode_iq4_xs(b, x); break;
    case Format::z4_32: case Format::z4_64: case Format::z4_128: decode_zeroed(f, b, x); break;
    default: decode_group(f, b, x);
  }
  return is_finite(x.d) && (!info(f).has_minima || is_finite(x.m));
}

void values(Format f, const RowSpan& x, float* out) {
  const FormatInfo& of = info(f);
  const float d = half_to_float(x.d), m = of.has_minima ? half_to_float(x.m) : 0;
  const int offset = of.has_zeros ? x.t[0] : of.offset;
  for (int i = 0; i < of.span; i++) {
    const int code = of.has_table ? kTable[x.u[i]] : of.bits == 8 ? (int8_t)x.u[i] : x.u[i] - offset;
    const int g = of.scale_group ? i / of.scale_group : 0;
    const float scale = of.scale_group ? d * (float)x.s[g] : d;
    const float low = of.scale_group && of.has_minima ? -(m * (float)x.t[g]) : m;
    out[i] = of.has_minima ? scale * (float)code + low : scale * (float)code;
  }
}

template <int bits>
static void pack_group(const uint8_t* lines, uint8_t* out) {
  constexpr int low = bits >= 4 ? 4 : 2;
  if constexpr (bits == 8) {
    std::memcpy(out, lines, kGroupBytes);
  } else {
    pack_plane<low>(lines, out);
    uint8_t upper[kGroupBytes];
    for (int j = 0; j < kGroupBytes; j++) upper[j] = lines[j] >> low;
    if constexpr (bits > low) pack_plane<bits - low>(upper, out + kGroupBytes * low / 8);
  }
}

static void pack_group(int bits, const uint8_t* lines, uint8_t* out) {
  switch (bits) {
    case 2: return pack_group<2>(lines, out);
    case 3: return pack_group<3>(lines, out);
    case 4: return pack_group<4>(lines, out);
    case 5: return pack_group<5>(lines, out);
    case 6: return pack_group<6>(lines, out);
    default: return pack_group<8>(lines, out);
  }
}

void pack(Format f, const RowSpan* rows, uint8_t* tile) {
  const FormatInfo& of = info(f);
  const int scales = of.scales();
  uint8_t lines[kGroupBytes];
  for (int g = 0; g < of.span / kGroup; g++) {
    for (int i = 0; i < kLanes; i++)
      for (int l = 0; l < kLines; l++) std::memcpy(lines + l * kLineBytes + i * 4, rows[i].u + g * kGroup + 4 * l, 4);
    pack_group(of.bits, lines, tile + of.head_bytes() + g * kGroupBytes * of.bits / 8);
  }
  uint8_t *s = tile + of.half_bytes(), *t = s + scales * kLanes;
  uint16_t *d = (uint16_t*)tile, *m = d + kLanes;
  for (int i = 0; i < kLanes; i++) {
    for (int g = 0; g < scales; g++) {
      s[g * kLanes + i] = (uint8_t)rows[i].s[g] | (of.packs_scales() ? rows[i].t[g] << 4 : 0);
      if (of.has_minima && !of.packs_scales()) t[g * kLanes + i] = rows[i].t[g];
    }
    if (of.has_zeros) t[i] = rows[i].t[0];
    d[i] = rows[i].d;
    if (of.has_minima) m[i] = rows[i].m;
  }
}

// The code of one weight of a group as it is stored.
static int code_at(int bits, const uint8_t* in, int line, int byte) {
  auto plane = [&](const uint8_t* p, int n) {
    const int bytes = kGroupBytes * n / 8, at = line * kLineBytes + byte;
    return p[at % bytes] >> at / bytes * n & ((1 << n) - 1);
  };
  if (bits == 8) return in[line * kLineBytes + byte];
  const int low = bits >= 4 ? 4 : 2;
  return plane(in, low) | (bits > low ? plane(in + kGroupBytes * low / 8, bits - low) << low : 0);
}

void unpack(Format f, const uint8_t* tile, int lane, RowSpan& x) {
  const FormatInfo& of = info(f);
  const uint8_t* codes = tile + of.head_bytes();
  for (int i = 0; i < of.span; i++)
    x.u[i] = code_at(of.bits, codes + i / kGroup * kGroupBytes * of.bits / 8, i % kGroup / 4, lane * 4 + i % 4);
  const uint8_t *s = tile + of.half_bytes(), *t = s + of.scales() * kLanes;
  const uint16_t* d = (const uint16_t*)tile;
  for (int g = 0; g < std::min(of.scales(), 16); g++) {  // gcc 12 does not see that they are not more
    const uint8_t both = s[g * kLanes + lane];
    x.s[g] = (int8_t)(of.packs_scales() ? both & 15 : both);
    x.t[g] = !of.has_minima ? 0 : of.packs_scales() ? both >> 4 : t[g * kLanes + lane];
  }
  if (of.has_zeros) x.t[0] = t[lane];
  x.d = d[lane], x.m = of.has_minima ? d[kLanes + lane] : 0;
}
