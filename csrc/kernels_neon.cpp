// aarch64, compiled twice: with the dot product instructions of ARMv8.2, and with the matrix products of ARMv8.6 (i8mm) too.
#ifdef __ARM_FEATURE_MATMUL_INT8
#define KERNEL_NS i8mm
#else
#define KERNEL_NS neon
#endif
#include "vec_neon.h"

namespace KERNEL_NS {

constexpr int kRowBlock = 4;

// As in kernels_avx2.cpp. Both factors of vdotq_s32 are signed, which codes of up to 6 bits do not mind.
template <int bits>
struct Dot {
  using Sum = I;
  struct Codes {
    int8x16_t v[4];
  };
  static constexpr int kLines = 64, kShift = 0;
  static I zero() { return iset1(0); }
  static Codes of(I w) {
    Codes c;
    for (int i = 0; i < 4; i++) c.v[i] = vreinterpretq_s8_s32(w.v[i]);
    return c;
  }
  static I add(I sum, const Codes& c, int32_t four) {
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) sum.v[i] = vdotq_s32(sum.v[i], c.v[i], v);
    return sum;
  }
  static I total(I sum) { return sum; }
  static I fold(I total, I sum, I s) {
    for (int i = 0; i < 4; i++) total.v[i] = vmlaq_s32(total.v[i], sum.v[i], s.v[i]);
    return total;
  }
  static int32_t scale_word(int s) { return s; }

#ifdef __ARM_FEATURE_MATMUL_INT8
  // A matrix product is of two rows and two columns, eight inputs each: of two lines.
  static constexpr int kPairRows = 4;  // counted, not measured (docs/performance.md)

  // Vector i of the result: both lines of column 2 i, then of column 2 i + 1. It may take its lines' place.
  static void pair_lines(const uint8_t* lines, uint8_t* pair) {
    const I a = load_line(lines), b = load_line(lines + kLineBytes);
    for (int i = 0; i < 4; i++) {
      vst1q_u8(pair + 32 * i, vreinterpretq_u8_s32(vzip1q_s32(a.v[i], b.v[i])));
      vst1q_u8(pair + 32 * i + 16, vreinterpretq_u8_s32(vzip2q_s32(a.v[i], b.v[i])));
    }
  }

  static Codes of_pair(const uint8_t* pair, bool second) {
    const I a = load_line(pair), b = load_line(pair + kLineBytes);
    const auto pick = [second](int32x4_t x, int32x4_t y) { return second ? vuzp2q_s32(x, y) : vuzp1q_s32(x, y); };
    return of({pick(a.v[0], a.v[1]), pick(a.v[2], a.v[3]), pick(b.v[0], b.v[1]), pick(b.v[2], b.v[3])});
  }

  // Sums of MT rows, by two: vector i holds columns 2 i and 2 i + 1 of the first, then of the second. The last of an odd
  // number is its own second.
  template <int MT>
  struct Pairs {
    static constexpr int kPairs = (MT + 1) / 2;
    int32x4_t v[kPairs][8] = {};

    static int64x2_t sixteen(const int8_t* inputs) { return vreinterpretq_s64_s8(vld1q_s8(inputs)); }

    template <int lines>
    void add(const uint8_t* codes, const int8_t* inputs, int k) {
      for (int l = 0; l < lines; l += 4) {
        int8x16_t rows[kPairs][2];
        for (int p = 0; p < kPairs; p++) {
          const int8_t* row = inputs + 4 * l + 2 * p * (long)k;
          const int64x2_t a = sixteen(row), b = sixteen(2 * p + 1 < MT ? row + k : row);
          rows[p][0] = vreinterpretq_s8_s64(vzip1q_s64(a, b)), rows[p][1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
        }
        for (int i = 0; i < 16; i++) {
          const int8x16_t columns = vreinterpretq_s8_u8(vld1q_u8(codes + l * kLineBytes + 16 * i));
          for (int p = 0; p < kPairs; p++) v[p][i % 8] = vmmlaq_s32(v[p][i % 8], rows[p][i / 8], columns);
        }
      }
    }

    void fold(const Pairs& sum, const int32_t* s) {
      for (int i = 0; i < 8; i++) {
        const int32x2_t two = vld1_s32(s + 2 * i);
        for (int p = 0; p < kPairs; p++) v[p][i] = vmlaq_s32(v[p][i], sum.v[p][i], vcombine_s32(two, two));
      }
    }

    void rows(I (&total)[MT]) const {
      for (int m = 0; m < MT; m++)
        for (int i = 0; i < 4; i++) {
          const int64x2_t a = vreinterpretq_s64_s32(v[m / 2][2 * i]), b = vreinterpretq_s64_s32(v[m / 2][2 * i + 1]);
          total[m].v[i] = vreinterpretq_s32_s64(m % 2 ? vuzp2q_s64(a, b) : vuzp1q_s64(a, b));
        }
    }
  };
#endif
};

}  // namespace KERNEL_NS

#include "kernels_table.h"
