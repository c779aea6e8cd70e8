// Products on the tile unit, compiled twice: for Intel's AMX beside AVX-512, and on a model of the unit for any machine.
#ifdef __AMX_INT8__
#define KERNEL_NS amx
#include "vec_avx512.h"

namespace KERNEL_NS {

// In assembly: gcc's intrinsics do not say that they read memory, and want tiles by literal numbers.
struct Tiles {
  static void configure(const void* memory) { asm volatile("ldtilecfg %0" ::"m"(*(const char (*)[64])memory)); }
  static void release() { asm volatile("tilerelease"); }
  template <int t>
  static void zero() { asm volatile("tilezero %%tmm%c0" ::"i"(t)); }
  template <int t>
  static void load(const void* base, long stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(t) : "memory");
  }
  template <int t>
  static void store(void* base, long stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(t) : "memory");
  }
  // to += left * right: signed bytes by what `Byte` is.
  template <class Byte, int to, int left, int right>
  static void multiply() {
    if constexpr (Byte(-1) < 0)
      asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(to), "i"(left), "i"(right));
    else
      asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(to), "i"(left), "i"(right));
  }
};

}  // namespace KERNEL_NS
#else
#define KERNEL_NS amx_model
#include "tile_model.h"
#include "vec_portable.h"

namespace KERNEL_NS {

struct Tiles {
  static TileModel& unit() {
    static thread_local TileModel model;
    return model;
  }
  static void configure(const void* memory) { unit().configure(memory); }
  static void release() { unit().release(); }
  template <int t>
  static void zero() { unit().zero(t); }
  template <int t>
  static void load(const void* base, long stride) { unit().load(t, base, stride); }
  template <int t>
  static void store(void* base, long stride) { unit().store(t, base, stride); }
  template <class Byte, int to, int left, int right>
  static void multiply() { unit().multiply<int8_t, Byte>(to, left, right); }
};

}  // namespace KERNEL_NS
#endif

#include "gemm_tiles.h"
