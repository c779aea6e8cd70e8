// AVX2, compiled twice: with AVX-VNNI's 8-bit products, and without, where 16-bit products keep the sums exact.
#ifdef __AVXVNNI__
#define KERNEL_NS avxvnni
#else
#define KERNEL_NS avx2
#endif
#include "vec_avx2.h"

namespace KERNEL_NS {

constexpr int kRowBlock = 4;

// Products of a line's codes with four inputs. Sum: what may be added over kLines lines; total: the same in 32 bits; fold:
// times the scales s, added to what is there. Of 8 bits: of the codes, which are signed, plus kShift.
#ifdef __AVXVNNI__
template <int bits>
struct Dot {
  using Sum = I;
  static constexpr int kLines = 64, kShift = bits == 8 ? 128 : 0;
  static I zero() { return iset1(0); }
  static I of(I w) {
    const I flip = iset1((int32_t)0x80808080);
    return bits == 8 ? I{_mm256_xor_si256(w.a, flip.a), _mm256_xor_si256(w.b, flip.b)} : w;
  }
  static I add(I sum, I w, int32_t four) {
    const __m256i v = _mm256_set1_epi32(four);
    return {_mm256_dpbusd_avx_epi32(sum.a, w.a, v), _mm256_dpbusd_avx_epi32(sum.b, w.b, v)};
  }
  static I total(I sum) { return sum; }
  static I fold(I total, I sum, I s) { return iadd(total, imul(sum, s)); }
  static int32_t scale_word(int s) { return s; }
};
#else
// NOTE: maddubs adds two products in 16 bits and saturates: 8 lines of 4 bits times 127 fit, 4 of 5, 2 of 6.
template <int bits>
struct Dot {
  using Sum = I;
  static constexpr int kLines = bits <= 4 ? 8 : bits == 5 ? 4 : 2, kShift = 0;
  static I zero() { return iset1(0); }
  static I of(I w) { return w; }
  static I add(I sum, I w, int32_t four) {
    const __m256i v = _mm256_set1_epi32(four);
    return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, v)), _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, v))};
  }
  static I total(I sum) { return fold(iset1(0), sum, iset1(0x00010001)); }
  static I fold(I total, I sum, I s) {
    return {_mm256_add_epi32(total.a, _mm256_madd_epi16(sum.a, s.a)),
            _mm256_add_epi32(total.b, _mm256_madd_epi16(sum.b, s.b))};
  }
  static int32_t scale_word(int s) { return (s & 0xffff) | s << 16; }
};

// Signed codes: their magnitudes times the inputs with the codes' signs. 2 * 128 * 127 fits in 16 bits.
template <>
struct Dot<8> {
  using Sum = I;
  struct Codes {
    I w, magnitude;
  };
  static constexpr int kLines = 64, kShift = 0;
  static I zero() { return iset1(0); }
  static Codes of(I w) { return {w, {_mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b)}}; }
  static __m256i add(__m256i sum, __m256i w, __m256i magnitude, __m256i v) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(v, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static I add(I sum, const Codes& c, int32_t four) {
    const __m256i v = _mm256_set1_epi32(four);
    return {add(sum.a, c.w.a, c.magnitude.a, v), add(sum.b, c.w.b, c.magnitude.b, v)};
  }
  static I total(I sum) { return sum; }
  static I fold(I total, I sum, I s) { return iadd(total, imul(sum, s)); }
  static int32_t scale_word(int s) { return s; }
};
#endif

}  // namespace KERNEL_NS

#include "kernels_table.h"
