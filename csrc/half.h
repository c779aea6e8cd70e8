// IEEE half precision in software: exact to float, rounded to nearest even from it.
#pragma once
#include <cstdint>
#include <cstring>

static inline float bits_to_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

static inline uint32_t float_to_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = (float)mantissa * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

// The same without branches, so that compilers vectorise it; what is not finite gives infinity.
static inline float finite_half_to_float(uint16_t h) {
  const uint32_t magnitude = h & 0x7fff, sign = (uint32_t)(h & 0x8000) << 16;
  const uint32_t value = float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f);
  return bits_to_float(sign | (magnitude >= 0x7c00 ? 0x7f800000 : value));
}

static inline uint16_t float_to_half(float f) {
  const uint32_t u = float_to_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
  if (a >= 0x47800000) return sign | (a > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (a < 0x38800000) {  // adding 0.5 leaves the subnormal's bits at the bottom of the mantissa
    const uint32_t r = float_to_bits(bits_to_float(a) + 0.5f);
    return sign | (r - 0x3f000000);
  }
  const uint32_t rounded = a - 0x38000000 + 0xfff + (a >> 13 & 1);
  return sign | rounded >> 13;
}
