// What weights are stored as: the codes that a file holds, in tiles of 16 rows.
//
// A row is cut into spans of 32 to 256 weights. A weight of a span is
//   d * (u - offset)                       groups of 32 without minima
//   d * u + m                              groups of 32 with minima
//   d * (u - z)                            groups of 32, 64 or 128 with a zero of their own: z an integer of 4 bits
//   d * s[g] * (u - offset)                blocks of 256: s[g] an integer for each 16 or 32 of them
//   d * s[g] * u - dm * t[g]               the same with minima
// with d, m and dm in half precision. u has 2 to 6 bits and no sign; codes of 8 bits, and what a table makes of 4, are
// signed and have no offset.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr int kLanes = 16;   // rows of a weight tile, positions of a key tile
constexpr int kGroup = 32;   // weights whose codes are stored together
constexpr int kBlock = 256;  // inputs that share a scale

enum class Format : uint32_t {
  f32,
  f16,   // f16 and bf16: only what is read, never what is stored
  bf16,
  a8,    // our own: 8 bits with a minimum per 32
  q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl,
  q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs,
  z4_32, z4_64, z4_128,  // GPTQ's and AWQ's, by the weights that share a scale and a zero
};
constexpr int kFormats = (int)Format::z4_128 + 1;

struct FormatInfo {
  const char* name;  // ggml's, where it has one
  int file_bytes;    // of a span in a file
  int bits;          // of a stored code
  int span;          // weights: 1, 32 or 256
  int scale_group;   // weights that share an s; 0: there is no s
  int offset;
  bool has_minima, has_table, has_zeros = false;

  constexpr bool is_coded() const { return span > 1; }
  constexpr bool is_block() const { return span == kBlock; }
  constexpr bool packs_scales() const { return bits == 2; }  // s and t in one byte
  constexpr int scales() const { return scale_group ? span / scale_group : 0; }
  constexpr int code_bytes() const { return kLanes * span * bits / 8; }
  constexpr int scale_bytes() const {
    return kLanes * (scales() * (has_minima && !packs_scales() ? 2 : 1) + has_zeros);
  }
  // Of one span of one tile: d and m or dm, then s, t or z, then codes: read in the order of addresses.
  constexpr int half_bytes() const { return 2 * kLanes * (has_minima ? 2 : 1); }
  constexpr int head_bytes() const { return half_bytes() + scale_bytes(); }
  constexpr int tile_bytes() const { return head_bytes() + code_bytes(); }
};

constexpr FormatInfo kFormatInfo[kFormats] = {
    {"F32", 4, 32, 1, 0, 0, false, false},    {"F16", 2, 16, 1, 0, 0, false, false},
    {"BF16", 2, 16, 1, 0, 0, false, false},   {"A8", 36, 8, 32, 0, 0, true, false},
    {"Q4_0", 18, 4, 32, 0, 8, false, false},  {"Q4_1", 20, 4, 32, 0, 0, true, false},
    {"Q5_0", 22, 5, 32, 0, 16, false, false}, {"Q5_1", 24, 5, 32, 0, 0, true, false},
    {"Q8_0", 34, 8, 32, 0, 0, false, false},  {"IQ4_NL", 18, 4, 32, 0, 0, false, true},
    {"Q2_K", 84, 2, 256, 16, 0, true, false}, {"Q3_K", 110, 3, 256, 16, 4, false, false},
    {"Q4_K", 144, 4, 256, 32, 0, true, false}, {"Q5_K", 176, 5, 256, 32, 0, true, false},
    {"Q6_K", 210, 6, 256, 16, 32, false, false}, {"IQ4_XS", 136, 4, 256, 32, 0, false, true},
    {"Z4_32", 19, 4, 32, 0, 0, false, false, true}, {"Z4_64", 35, 4, 64, 0, 0, false, false, true},
    {"Z4_128", 67, 4, 128, 0, 0, false, false, true},
};

constexpr const FormatInfo& info(Format f) { return kFormatInfo[(int)f]; }

constexpr int8_t kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Codes of 32 weights of 16 rows: 8 lines u8[16][4], a line 4 weights of each row. As stored they are planes of 4, 2 or 1
// bits, whose bytes hold 2 lines 4 apart, 4 lines 2 apart, or 8: what fits in a byte of its own is stored as it is.
constexpr int kLineBytes = kLanes * 4, kLines = kGroup / 4, kGroupBytes = kLines * kLineBytes;

template <int bits>
inline void pack_plane(const uint8_t* lines, uint8_t* out) {
  constexpr int bytes = kGroupBytes * bits / 8;
  for (int j = 0; j < bytes; j++) {
    uint8_t byte = 0;
    for (int i = 0; i < 8 / bits; i++) byte |= (lines[i * bytes + j] & ((1 << bits) - 1)) << i * bits;
    out[j] = byte;
  }
}

// Part i of a plane's bits, moved to `shift`. A template, so that compilers shift by constants, and vectorise it.
template <int bits, int shift, int i>
inline void unpack_part(const uint8_t* __restrict in, uint8_t* __restrict lines) {
  constexpr int bytes = kGroupBytes * bits / 8, mask = ((1 << bits) - 1) << shift, at = i * bits - shift;
  for (int j = 0; j < bytes; j++) {
    const uint8_t value = (at < 0 ? in[j] << (at < 0 ? -at : 0) : in[j] >> (at < 0 ? 0 : at)) & mask;
    if (shift)
      lines[i * bytes + j] |= value;
    else
      lines[i * bytes + j] = value;
  }
  if constexpr ((i + 1) * bits < 8) unpack_part<bits, shift, i + 1>(in, lines);
}

// bits: 2 to 6.
template <int bits>
inline void unpack_group(const uint8_t* in, uint8_t* lines) {
  constexpr int low = bits >= 4 ? 4 : 2;
  unpack_part<low, 0, 0>(in, lines);
  if constexpr (bits > low) unpack_part<bits - low, low, 0>(in + kGroupBytes * low / 8, lines);
}
