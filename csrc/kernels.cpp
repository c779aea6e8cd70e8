// Chooses the instruction set at run time.
#include "kernels.h"

#include <cstring>

namespace portable { extern const Kernels table; }
namespace amx_model { void gemm(const Gemm&); }
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace amx { void gemm(const Gemm&); }
namespace avx512 { extern const Kernels table; }
namespace avxvnni { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

namespace i8mm { extern const Kernels table; }
namespace neon { extern const Kernels table; }
#endif

// Many rows on a tile unit, all else as another set has it.
static Kernels with_tiles(Kernels k, const char* isa, void (*gemm_many)(const Gemm&)) {
  k.isa = isa, k.gemm_many = gemm_many;
  k.panel_rows = k.unit_rows = 128;
  k.many_rows = 8;  // counted, not measured (docs/performance.md)
  return k;
}

#if defined(__x86_64__)
#ifdef LLAMASTREAM_EMULATED  // the instructions are modelled (tests/engine/emulated): all of them are there
static bool has_v3() { return true; }
static bool has_avx512() { return true; }
static bool has_avx_vnni() { return true; }
static bool has_amx() { return true; }
#else
static bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

static bool has_avx_vnni() {  // gcc 12 has no name for it in __builtin_cpu_supports
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

// The processor has the unit, the system keeps its state, and lets this process use it.
static bool has_amx() {
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kSavesState = 1u << 27, kTileState = 3u << 17;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (kTile | kInt8)) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSavesState)) return false;
  asm("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTileState) == kTileState && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif
#endif

static std::vector<const Kernels*> find_all() {
  std::vector<const Kernels*> all;
#if defined(__x86_64__)
#ifdef LLAMASTREAM_AMX
  static const Kernels tiles = with_tiles(avx512::table, "amx", amx::gemm);
  if (has_v3() && has_avx512() && has_amx()) all.push_back(&tiles);
#endif
  if (has_v3() && has_avx512()) all.push_back(&avx512::table);
  if (has_v3() && has_avx_vnni()) all.push_back(&avxvnni::table);
  if (has_v3()) all.push_back(&avx2::table);
#elif defined(__aarch64__)
  const bool has_dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
  if (has_dot && getauxval(AT_HWCAP2) & HWCAP2_I8MM) all.push_back(&i8mm::table);
  if (has_dot) all.push_back(&neon::table);
#endif
  all.push_back(&portable::table);
  return all;
}

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> all = find_all();
  return all;
}

const Kernels* find_kernels(const char* isa) {
  static const Kernels model = with_tiles(portable::table, "amx-model", amx_model::gemm);
  if (!std::strcmp(isa, "auto")) return available_kernels()[0];
  if (!std::strcmp(isa, model.isa)) return &model;
  for (const Kernels* k : available_kernels())
    if (!std::strcmp(isa, k->isa)) return k;
  return nullptr;
}
