// AVX-512 with VNNI: 64 products of 8 bits in one instruction.
#define KERNEL_NS avx512
#include "vec_avx512.h"

namespace KERNEL_NS {

constexpr int kRowBlock = 8;

// As in kernels_avx2.cpp.
template <int bits>
struct Dot {
  using Sum = I;
  static constexpr int kLines = 64, kShift = bits == 8 ? 128 : 0;
  static I zero() { return iset1(0); }
  static I of(I w) { return {bits == 8 ? _mm512_xor_si512(w.v, _mm512_set1_epi32((int32_t)0x80808080)) : w.v}; }
  static I add(I sum, I w, int32_t four) { return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(four))}; }
  static I total(I sum) { return sum; }
  static I fold(I total, I sum, I s) { return iadd(total, imul(sum, s)); }
  static int32_t scale_word(int s) { return s; }
};

}  // namespace KERNEL_NS

#include "kernels_table.h"
