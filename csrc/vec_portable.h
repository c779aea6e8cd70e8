// Sixteen float lanes in plain C++: the definition that the other vec_*.h files match bit for bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"
#include "kernels.h"

namespace KERNEL_NS {

constexpr int kQueryBlock = 2, kLaneBlock = 1;
constexpr int kByteQueries = kQueryBlock, kByteLanes = kLaneBlock;

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct P {  // 16 pairs of 16-bit integers
  Pair<int16_t> v[16];
};

#define LANES for (int i = 0; i < 16; i++)
inline F load(const float* p) { F r; LANES r.v[i] = p[i]; return r; }
inline void store(float* p, F a) { LANES p[i] = a.v[i]; }
inline void stream(float* p, F a) { store(p, a); }
inline void end_streams() {}
inline I load(const int32_t* p) { I r; LANES r.v[i] = p[i]; return r; }
inline I load_line(const uint8_t* p) { I r; std::memcpy(&r, p, 64); return r; }
inline void store(int32_t* p, I a) { LANES p[i] = a.v[i]; }
inline P load(const Pair<int16_t>* p) { P r; LANES r.v[i] = p[i]; return r; }
inline P load(const Pair<int8_t>* p) { P r; LANES r.v[i] = {p[i].even, p[i].odd}; return r; }
inline P broadcast(const Pair<int16_t>* p) { P r; LANES r.v[i] = *p; return r; }
inline I fma(P a, P b, I c) {
  LANES c.v[i] += a.v[i].even * b.v[i].even + a.v[i].odd * b.v[i].odd;
  return c;
}
inline F set1(float x) { F r; LANES r.v[i] = x; return r; }
inline F broadcast(const float* p) { return set1(*p); }
inline F add(F a, F b) { LANES a.v[i] += b.v[i]; return a; }
inline F sub(F a, F b) { LANES a.v[i] -= b.v[i]; return a; }
inline F mul(F a, F b) { LANES a.v[i] *= b.v[i]; return a; }
inline F div(F a, F b) { LANES a.v[i] /= b.v[i]; return a; }
inline F fma(F a, F b, F c) { LANES a.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]); return a; }
inline F max(F a, F b) { LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F min(F a, F b) { LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F select_lt(F x, F bound, F yes, F no) { LANES x.v[i] = x.v[i] < bound.v[i] ? yes.v[i] : no.v[i]; return x; }
inline F keep_first(F a, int count, F rest) { LANES if (i >= count) a.v[i] = rest.v[i]; return a; }
template <int stride>
inline F swap(F a) { F r; LANES r.v[i] = a.v[i ^ stride]; return r; }  // each lane with the one `stride` away
inline I iset1(int32_t x) { I r; LANES r.v[i] = x; return r; }
inline I iadd(I a, I b) { LANES a.v[i] = (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]); return a; }
inline I isub(I a, I b) { LANES a.v[i] = (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i]); return a; }
inline I imul(I a, I b) { LANES a.v[i] = (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i]); return a; }
inline I imax(I a, I b) { LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline I iand(I a, I b) { LANES a.v[i] &= b.v[i]; return a; }
template <int n>
inline I shift_left(I a) { LANES a.v[i] = (int32_t)((uint32_t)a.v[i] << n); return a; }
template <int n>
inline I shift_right(I a) { LANES a.v[i] >>= n; return a; }
inline I bits(F a) { I r; std::memcpy(&r, &a, 64); return r; }
inline F as_float(I a) { F r; std::memcpy(&r, &a, 64); return r; }
inline I round_int(F a) {  // INT_MIN where it does not fit, as x86 does
  I r;
  LANES r.v[i] = a.v[i] >= -0x1p31f && a.v[i] < 0x1p31f ? (int32_t)std::nearbyintf(a.v[i]) : INT32_MIN;
  return r;
}
inline F to_float(I a) { F r; LANES r.v[i] = (float)a.v[i]; return r; }
inline uint8_t store_bytes(int8_t* p, I a, I b) {  // which four bytes are not all 0
  unsigned marks = 0;
  for (int i = 0; i < 32; i++) {
    p[i] = (int8_t)(i < 16 ? a.v[i] : b.v[i - 16]);
    marks |= (p[i] != 0) << i / 4;
  }
  return (uint8_t)marks;
}
inline void store_words(int16_t* p, I a) { LANES p[i] = (int16_t)a.v[i]; }
inline F load_half(const uint16_t* p) { F r; LANES r.v[i] = half_to_float(p[i]); return r; }

inline void look_up(const int8_t* table, uint8_t* bytes, int n) {
  for (int i = 0; i < n; i++) bytes[i] = (uint8_t)table[bytes[i]];
}

inline float reduce_add(F a) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) a.v[i] += a.v[i + w];
  return a.v[0];
}
inline float reduce_max(F a) {
  float m = a.v[0];
  LANES m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline int32_t reduce_imax(I a) {
  int32_t m = a.v[0];
  LANES m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline int32_t reduce_iadd(I a) {
  int32_t s = 0;
  LANES s += a.v[i];
  return s;
}
#undef LANES

}  // namespace KERNEL_NS
