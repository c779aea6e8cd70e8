// aarch64 with the dot product instructions of ARMv8.2.
#define KERNEL_NS neon
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
};

}  // namespace KERNEL_NS

#include "kernels_table.h"
