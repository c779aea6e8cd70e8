// Plain C++ for any machine: the slow definition of the same bits.
#define KERNEL_NS portable
#include "vec_portable.h"

namespace KERNEL_NS {

constexpr int kRowBlock = 2;

template <int bits>
struct Dot {
  using Sum = I;
  static constexpr int kLines = 64, kShift = 0;
  static I zero() { return iset1(0); }
  static I of(I w) { return w; }
  static I add(I sum, I codes, int32_t four) {
    uint8_t w[kLineBytes];
    int8_t a[4];
    std::memcpy(w, &codes, kLineBytes), std::memcpy(a, &four, 4);
    for (int i = 0; i < kLineBytes; i++) sum.v[i / 4] += (bits == 8 ? (int8_t)w[i] : w[i]) * a[i % 4];
    return sum;
  }
  static I total(I sum) { return sum; }
  static I fold(I total, I sum, I s) { return iadd(total, imul(sum, s)); }
  static int32_t scale_word(int s) { return s; }
};

}  // namespace KERNEL_NS

#include "kernels_table.h"
