// Stands before the compiler's own header: instructions that this machine lacks become SIMDe's model of them. What SIMDe
// lacks too is modelled here, lane by lane.
#pragma once
#include_next <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#define _mm256_dpwssd_avx_epi32 simde_mm256_dpwssd_epi32

namespace model {

template <class To, class From>
inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy((void*)&to, (const void*)&from, sizeof to);
  return to;
}
template <class T, int n>
struct Lanes {
  T v[n];
};
using Ints = Lanes<int, 16>;
using Floats = Lanes<float, 16>;
template <class Half>
using Halves = Lanes<Half, 2>;

inline simde__m512i cvtps_epi32(simde__m512 x) {
  const auto h = bits<Halves<__m256>>(x);
  return bits<simde__m512i>(Halves<__m256i>{_mm256_cvtps_epi32(h.v[0]), _mm256_cvtps_epi32(h.v[1])});
}
inline simde__m512 cvtepi32_ps(simde__m512i x) {
  const auto h = bits<Halves<__m256i>>(x);
  return bits<simde__m512>(Halves<__m256>{_mm256_cvtepi32_ps(h.v[0]), _mm256_cvtepi32_ps(h.v[1])});
}
inline simde__m512 cvtph_ps(__m256i x) {
  const auto h = bits<Halves<__m128i>>(x);
  return bits<simde__m512>(Halves<__m256>{_mm256_cvtph_ps(h.v[0]), _mm256_cvtph_ps(h.v[1])});
}
inline __m256 extract(simde__m512 x, int half) { return bits<Halves<__m256>>(x).v[half]; }
template <class T>
inline auto narrow(simde__m512i x) {
  Lanes<T, 16> to;
  for (int i = 0; i < 16; i++) to.v[i] = (T)bits<Ints>(x).v[i];
  return to;
}
inline int sum(simde__m512i x) {
  unsigned s = 0;
  for (int v : bits<Ints>(x).v) s += (unsigned)v;
  return (int)s;
}
template <class Vector, class X>
inline auto most(X x) {
  const Vector all = bits<Vector>(x);
  auto m = all.v[0];
  for (auto v : all.v) m = v > m ? v : m;
  return m;
}
inline simde__m512i shift(simde__m512i x, int n) {
  Ints all = bits<Ints>(x);
  for (int& v : all.v) v >>= n;
  return bits<simde__m512i>(all);
}
inline unsigned char test(__m256i x, __m256i y) {
  const auto a = bits<Lanes<int, 8>>(x), b = bits<Lanes<int, 8>>(y);
  unsigned m = 0;
  for (int i = 0; i < 8; i++) m |= ((a.v[i] & b.v[i]) != 0) << i;
  return (unsigned char)m;
}

}  // namespace model

#define _mm512_cvtps_epi32 model::cvtps_epi32
#define _mm512_cvtepi32_ps model::cvtepi32_ps
#define _mm512_cvtph_ps model::cvtph_ps
#define _mm512_extractf32x8_ps model::extract
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4  // whose header does not
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8(x) model::bits<__m128i>(model::narrow<signed char>(x))
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16(x) model::bits<__m256i>(model::narrow<short>(x))
#define _mm512_reduce_add_epi32 model::sum
#define _mm512_reduce_max_epi32 model::most<model::Ints>
#define _mm512_reduce_max_ps model::most<model::Floats>
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 model::shift
#undef _mm256_test_epi32_mask
#define _mm256_test_epi32_mask model::test
#define _mm512_stream_ps simde_mm512_storeu_ps
