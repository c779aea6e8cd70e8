// Sixteen float lanes on AVX-512. All vec_*.h files define the same operations with the same rounding.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels.h"

namespace KERNEL_NS {

constexpr int kQueryBlock = 6, kLaneBlock = 4;  // 24 accumulators, 5 operands: fills 32 registers
constexpr int kByteQueries = kQueryBlock, kByteLanes = kLaneBlock;

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct P {  // 16 pairs of 16-bit integers
  __m512i v;
};

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline void stream(float* p, F a) { _mm512_stream_ps(p, a.v); }
inline void end_streams() { _mm_sfence(); }
inline I load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline I load_line(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline P load(const Pair<int16_t>* p) { return {_mm512_loadu_si512(p)}; }
inline P load(const Pair<int8_t>* p) { return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))}; }
inline int32_t both(const Pair<int16_t>* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}
inline P broadcast(const Pair<int16_t>* p) { return {_mm512_set1_epi32(both(p))}; }
inline I fma(P a, P b, I c) { return {_mm512_dpwssd_epi32(c.v, a.v, b.v)}; }
inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline F broadcast(const float* p) { return set1(*p); }
inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is NaN
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F select_lt(F x, F bound, F yes, F no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_LT_OQ), no.v, yes.v)};
}
inline F keep_first(F a, int count, F rest) {  // lanes below count from a
  const __mmask16 m = count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1;
  return {_mm512_mask_blend_ps(m, rest.v, a.v)};
}
template <int stride>
inline F swap(F a) {  // 2 within, and of, four lanes: 0x4e, 1: 0xb1
  if constexpr (stride < 4) return {_mm512_shuffle_ps(a.v, a.v, stride == 2 ? 0x4e : 0xb1)};
  else return {_mm512_shuffle_f32x4(a.v, a.v, stride == 8 ? 0x4e : 0xb1)};
}
inline I iset1(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I iadd(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I isub(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I imul(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I imax(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline I iand(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int n>
inline I shift_left(I a) { return {_mm512_slli_epi32(a.v, n)}; }
template <int n>
inline I shift_right(I a) { return {_mm512_srai_epi32(a.v, n)}; }
inline I bits(F a) { return {_mm512_castps_si512(a.v)}; }
inline F as_float(I a) { return {_mm512_castsi512_ps(a.v)}; }
inline I round_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline uint8_t store_bytes(int8_t* p, I a, I b) {  // which four bytes are not all 0
  const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm512_cvtepi32_epi8(a.v)),
                                                _mm512_cvtepi32_epi8(b.v), 1);
  _mm256_storeu_si256((__m256i*)p, bytes);
  return _mm256_test_epi32_mask(bytes, bytes);
}
inline void store_words(int16_t* p, I a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(a.v)); }
inline F load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }

// Replaces n places in the table, a multiple of 32, by what is there.
inline void look_up(const int8_t* table, uint8_t* bytes, int n) {
  const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  for (int i = 0; i < n; i += 32) {
    __m256i* at = (__m256i*)(bytes + i);
    _mm256_storeu_si256(at, _mm256_shuffle_epi8(all, _mm256_loadu_si256(at)));
  }
}

inline float reduce_add(F a) {  // lane i + lane i + 8, then 4, 2, 1
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float reduce_max(F a) { return _mm512_reduce_max_ps(a.v); }
inline int32_t reduce_imax(I a) { return _mm512_reduce_max_epi32(a.v); }
inline int32_t reduce_iadd(I a) { return _mm512_reduce_add_epi32(a.v); }

}  // namespace KERNEL_NS
