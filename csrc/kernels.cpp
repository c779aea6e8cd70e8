// Chooses the instruction set at run time.
#include "kernels.h"

#include <cstring>

namespace portable { extern const Kernels table; }
#if defined(__x86_64__)
namespace avx512 { extern const Kernels table; }
namespace avxvnni { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
#elif defined(__aarch64__)
namespace neon { extern const Kernels table; }
#endif

#if defined(__x86_64__)
#include <cpuid.h>

static bool has_avx_vnni() {  // gcc 12 has no name for it in __builtin_cpu_supports
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

#ifdef LLAMASTREAM_EMULATED  // the instructions are modelled (tests/engine/emulated): all of them are there
static bool has(const char*) { return true; }
#else
static bool has(const char* isa) {
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(isa, "avx512"))
    return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
  return v3 && (std::strcmp(isa, "avxvnni") || has_avx_vnni());
}
#endif
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static bool has(const char*) { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#endif

const Kernels* find_kernels(const char* isa) {
#if defined(__x86_64__)
  const Kernels* best_first[] = {&avx512::table, &avxvnni::table, &avx2::table};
#elif defined(__aarch64__)
  const Kernels* best_first[] = {&neon::table};
#else
  const Kernels** best_first = nullptr;
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  for (const Kernels* k : best_first)
    if ((!std::strcmp(isa, "auto") || !std::strcmp(isa, k->isa)) && has(k->isa)) return k;
#else
  (void)best_first;
#endif
  return !std::strcmp(isa, "auto") || !std::strcmp(isa, "portable") ? &portable::table : nullptr;
}
