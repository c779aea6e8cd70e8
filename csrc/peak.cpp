// The most multiplications and additions that the cores do in a second: what a compute bound is held against.
#include "peak.h"

#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

namespace {

constexpr int kChains = 12;  // independent sums: latency times instructions per cycle, on every core so far
constexpr int kRounds = 20'000;

// Runs kRounds times `step` on each of kChains sums, which stay in registers, and uses them.
#define LLAMASTREAM_SPIN(Vector, first, step)                     \
  Vector sums[kChains];                                           \
  for (Vector& sum : sums) sum = first;                           \
  for (int round = 0; round < kRounds; round++) {                 \
    _Pragma("GCC unroll 12") for (Vector& sum : sums) sum = step; \
  }                                                               \
  for (Vector& sum : sums) asm volatile("" ::"m"(sum))

struct Loop {
  const char* isa;
  bool int8;
  double ops;  // of one step: a product and its sum are two
  void (*run)();
};

typedef float Float4 __attribute__((vector_size(16)));

void portable_floats() {
  volatile float one = 1.0f;  // unknown to the compiler
  const Float4 a = {one, one, one, one};
  LLAMASTREAM_SPIN(Float4, a, sum * a + a);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) void avx512_bytes() {
  const __m512i a = _mm512_set1_epi8(1);
  LLAMASTREAM_SPIN(__m512i, a, _mm512_dpbusd_epi32(sum, a, a));
}

__attribute__((target("avx512f"))) void avx512_floats() {
  const __m512 a = _mm512_set1_ps(1.0f);
  LLAMASTREAM_SPIN(__m512, a, _mm512_fmadd_ps(sum, a, a));
}

// In assembly: gcc 12 copies every sum around the intrinsic.
__attribute__((target("avx2,avxvnni"))) void avxvnni_bytes() {
#define DOT(i) "%{vex%} vpdpbusd %12, %12, %" #i "\n"
  const __m256i a = _mm256_set1_epi8(1);
  __m256i s[kChains] = {a, a, a, a, a, a, a, a, a, a, a, a};
  for (int round = 0; round < kRounds; round++)
    asm volatile(DOT(0) DOT(1) DOT(2) DOT(3) DOT(4) DOT(5) DOT(6) DOT(7) DOT(8) DOT(9) DOT(10) DOT(11)
                 : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]), "+x"(s[4]), "+x"(s[5]), "+x"(s[6]), "+x"(s[7]),
                   "+x"(s[8]), "+x"(s[9]), "+x"(s[10]), "+x"(s[11])
                 : "x"(a));
#undef DOT
}

__attribute__((target("avx2,fma"))) void avx2_floats() {
  const __m256 a = _mm256_set1_ps(1.0f);
  LLAMASTREAM_SPIN(__m256, a, _mm256_fmadd_ps(sum, a, a));
}

#ifdef LLAMASTREAM_AMX
// 12 products of whole tiles, on four sums: a sum's next product comes when the one before it is done.
__attribute__((target("amx-tile,amx-int8"))) void amx_bytes() {
  alignas(64) uint8_t config[64] = {1};
  for (int t = 0; t < 8; t++) config[16 + 2 * t] = 64, config[48 + t] = 16;
  asm volatile("ldtilecfg %0" ::"m"(config));
#define DOTS "tdpbssd %tmm6, %tmm4, %tmm0\ntdpbssd %tmm7, %tmm4, %tmm1\ntdpbssd %tmm6, %tmm5, %tmm2\ntdpbssd %tmm7, %tmm5, %tmm3\n"
  for (int round = 0; round < kRounds; round++) asm volatile(DOTS DOTS DOTS);
#undef DOTS
  asm volatile("tilerelease");
}
#endif

constexpr Loop kLoops[] = {
#ifdef LLAMASTREAM_AMX
    {"amx", true, 2 * 16 * 16 * 64, amx_bytes},
    {"amx", false, 32, avx512_floats},
#endif
    {"avx512", true, 128, avx512_bytes},
    {"avx512", false, 32, avx512_floats},
    {"avxvnni", true, 64, avxvnni_bytes},
    {"avxvnni", false, 16, avx2_floats},
    {"avx2", false, 16, avx2_floats}};
#elif defined(__aarch64__)
__attribute__((target("arch=armv8.2-a+i8mm"))) void i8mm_bytes() {
  const int8x16_t a = vdupq_n_s8(1);
  LLAMASTREAM_SPIN(int32x4_t, vdupq_n_s32(1), vmmlaq_s32(sum, a, a));
}

__attribute__((target("arch=armv8.2-a+dotprod"))) void neon_bytes() {
  const int8x16_t a = vdupq_n_s8(1);
  LLAMASTREAM_SPIN(int32x4_t, vdupq_n_s32(1), vdotq_s32(sum, a, a));
}

void neon_floats() {
  const float32x4_t a = vdupq_n_f32(1.0f);
  LLAMASTREAM_SPIN(float32x4_t, a, vfmaq_f32(sum, a, a));
}

constexpr Loop kLoops[] = {{"i8mm", true, 64, i8mm_bytes},
                           {"i8mm", false, 8, neon_floats},
                           {"neon", true, 32, neon_bytes},
                           {"neon", false, 8, neon_floats}};
#else
constexpr Loop kLoops[] = {{"", false, 0, nullptr}};
#endif

// Without a dot product of bytes, the fastest products of floats are the bound.
Loop find_loop(const std::string& isa, bool int8) {
  for (const Loop& loop : kLoops)
    if (isa == loop.isa && loop.int8 == int8) return loop;
  return int8 ? find_loop(isa, false) : Loop{"portable", false, 8, portable_floats};
}

}  // namespace

double measure_peak(const std::string& isa, bool int8, int threads, double seconds) {
  const Kernels* kernels = find_kernels(isa.c_str());
  if (!kernels) throw std::invalid_argument("isa '" + isa + "' is unknown or cannot run on this machine.");
  if (threads < 1 || !(seconds > 0)) throw std::invalid_argument("threads and seconds must be > 0.");
  const Loop loop = find_loop(kernels->isa, int8);
  using Clock = std::chrono::steady_clock;
  std::vector<double> speeds(threads);
  std::vector<std::thread> workers;
  for (double& speed : speeds)
    workers.emplace_back([&loop, &speed, seconds] {
      const auto start = Clock::now();
      double elapsed = 0, runs = 0;
      while (elapsed < seconds) {
        loop.run();
        runs++;
        elapsed = std::chrono::duration<double>(Clock::now() - start).count();
      }
      speed = runs * kRounds * kChains * loop.ops / elapsed;
    });
  double sum = 0;
  for (int i = 0; i < threads; i++) workers[i].join(), sum += speeds[i];
  return sum;
}
