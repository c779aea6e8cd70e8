// Sixteen float lanes as four NEON registers (aarch64).
#pragma once
#include <arm_neon.h>

#include <cstdint>

#include "kernels.h"

namespace KERNEL_NS {

constexpr int kQueryBlock = 4, kLaneBlock = 1;  // 16 accumulators of 32 registers
constexpr int kByteQueries = kQueryBlock, kByteLanes = kLaneBlock;

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};
struct P {  // 16 pairs of 16-bit integers
  int16x8_t even[2], odd[2];
};

#define LANES for (int i = 0; i < 4; i++)
inline F load(const float* p) { F r; LANES r.v[i] = vld1q_f32(p + 4 * i); return r; }
inline void store(float* p, F a) { LANES vst1q_f32(p + 4 * i, a.v[i]); }
inline void stream(float* p, F a) { store(p, a); }
inline void end_streams() {}
inline I load(const int32_t* p) { I r; LANES r.v[i] = vld1q_s32(p + 4 * i); return r; }
inline I load_line(const uint8_t* p) { I r; LANES r.v[i] = vreinterpretq_s32_u8(vld1q_u8(p + 16 * i)); return r; }
inline void store(int32_t* p, I a) { LANES vst1q_s32(p + 4 * i, a.v[i]); }
inline P load(const Pair<int16_t>* p) {
  const int16x8x2_t low = vld2q_s16(&p->even), high = vld2q_s16(&p[8].even);
  return {{low.val[0], high.val[0]}, {low.val[1], high.val[1]}};
}
inline P load(const Pair<int8_t>* p) {
  const int8x8x2_t low = vld2_s8(&p->even), high = vld2_s8(&p[8].even);
  return {{vmovl_s8(low.val[0]), vmovl_s8(high.val[0])}, {vmovl_s8(low.val[1]), vmovl_s8(high.val[1])}};
}
inline P broadcast(const Pair<int16_t>* p) {
  const int16x8_t even = vdupq_n_s16(p->even), odd = vdupq_n_s16(p->odd);
  return {{even, even}, {odd, odd}};
}
inline I fma(P a, P b, I c) {
  for (int i = 0; i < 2; i++) {
    c.v[2 * i] = vmlal_s16(c.v[2 * i], vget_low_s16(a.even[i]), vget_low_s16(b.even[i]));
    c.v[2 * i] = vmlal_s16(c.v[2 * i], vget_low_s16(a.odd[i]), vget_low_s16(b.odd[i]));
    c.v[2 * i + 1] = vmlal_high_s16(c.v[2 * i + 1], a.even[i], b.even[i]);
    c.v[2 * i + 1] = vmlal_high_s16(c.v[2 * i + 1], a.odd[i], b.odd[i]);
  }
  return c;
}
inline F set1(float x) { F r; LANES r.v[i] = vdupq_n_f32(x); return r; }
inline F broadcast(const float* p) { return set1(*p); }
inline F add(F a, F b) { LANES a.v[i] = vaddq_f32(a.v[i], b.v[i]); return a; }
inline F sub(F a, F b) { LANES a.v[i] = vsubq_f32(a.v[i], b.v[i]); return a; }
inline F mul(F a, F b) { LANES a.v[i] = vmulq_f32(a.v[i], b.v[i]); return a; }
inline F div(F a, F b) { LANES a.v[i] = vdivq_f32(a.v[i], b.v[i]); return a; }
inline F fma(F a, F b, F c) { LANES a.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]); return a; }
inline F max(F a, F b) { LANES a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); return a; }
inline F min(F a, F b) { LANES a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); return a; }
inline F select_lt(F x, F bound, F yes, F no) {
  LANES x.v[i] = vbslq_f32(vcltq_f32(x.v[i], bound.v[i]), yes.v[i], no.v[i]);
  return x;
}
inline F keep_first(F a, int count, F rest) {
  static const int32_t lane[4] = {0, 1, 2, 3};
  LANES a.v[i] = vbslq_f32(vcltq_s32(vld1q_s32(lane), vdupq_n_s32(count - 4 * i)), a.v[i], rest.v[i]);
  return a;
}
template <int stride>
inline F swap(F a) {
  F r;
  LANES r.v[i] = stride == 1 ? vrev64q_f32(a.v[i]) : stride == 2 ? vextq_f32(a.v[i], a.v[i], 2) : a.v[i ^ stride / 4];
  return r;
}
inline I iset1(int32_t x) { I r; LANES r.v[i] = vdupq_n_s32(x); return r; }
inline I iadd(I a, I b) { LANES a.v[i] = vaddq_s32(a.v[i], b.v[i]); return a; }
inline I isub(I a, I b) { LANES a.v[i] = vsubq_s32(a.v[i], b.v[i]); return a; }
inline I imul(I a, I b) { LANES a.v[i] = vmulq_s32(a.v[i], b.v[i]); return a; }
inline I imax(I a, I b) { LANES a.v[i] = vmaxq_s32(a.v[i], b.v[i]); return a; }
inline I iand(I a, I b) { LANES a.v[i] = vandq_s32(a.v[i], b.v[i]); return a; }
template <int n>
inline I shift_left(I a) { LANES a.v[i] = vshlq_n_s32(a.v[i], n); return a; }
template <int n>
inline I shift_right(I a) { LANES a.v[i] = vshrq_n_s32(a.v[i], n); return a; }
inline I bits(F a) { I r; LANES r.v[i] = vreinterpretq_s32_f32(a.v[i]); return r; }
inline F as_float(I a) { F r; LANES r.v[i] = vreinterpretq_f32_s32(a.v[i]); return r; }
inline I round_int(F a) { I r; LANES r.v[i] = vcvtnq_s32_f32(a.v[i]); return r; }
inline F to_float(I a) { F r; LANES r.v[i] = vcvtq_f32_s32(a.v[i]); return r; }
inline uint8_t store_bytes(int8_t* p, I a, I b) {  // which four bytes are not all 0
  unsigned marks = 0;
  for (int i = 0; i < 8; i += 2) {
    const int32x4_t* quads = (i < 4 ? a.v : b.v) + i % 4;
    vst1_s8(p + 4 * i, vmovn_s16(vcombine_s16(vmovn_s32(quads[0]), vmovn_s32(quads[1]))));
    for (int j = 0; j < 2; j++) marks |= (vmaxvq_u32(vreinterpretq_u32_s32(quads[j])) != 0) << (i + j);
  }
  return (uint8_t)marks;
}
inline void store_words(int16_t* p, I a) { LANES vst1_s16(p + 4 * i, vmovn_s32(a.v[i])); }
inline F load_half(const uint16_t* p) {
  F r;
  LANES r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}

inline void look_up(const int8_t* table, uint8_t* bytes, int n) {
  for (int i = 0; i < n; i += 16)
    vst1q_s8((int8_t*)bytes + i, vqtbl1q_s8(vld1q_s8(table), vld1q_u8(bytes + i)));
}

inline float reduce_add(F a) {  // lane i + lane i + 8, then 4, 2, 1
  const float32x4_t q = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
inline float reduce_max(F a) {
  const F m = max(F{a.v[0], a.v[1], a.v[0], a.v[1]}, F{a.v[2], a.v[3], a.v[2], a.v[3]});
  return vmaxvq_f32(vmaxq_f32(m.v[0], m.v[1]));
}
inline int32_t reduce_imax(I a) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3]))); }
inline int32_t reduce_iadd(I a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }
#undef LANES

}  // namespace KERNEL_NS
