// How fast every kernel set that runs here multiplies, by format and rows: one thread, weights from memory as a model's are.
// G operations a second; where a set has two ways, the one for few rows and the one for many (Kernels::many_rows).
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

#include "kernels.h"

int main() {
  constexpr int k = 4096, num_tiles = 64, kRows[] = {1, 2, 4, 6, 8, 12, 16, 32, 64, 128}, most = 128;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<int8_t> low(most * k), high(most * k);
  std::vector<float> x(k), out(most * num_tiles * kLanes + 16);
  std::vector<Inputs::Block> blocks(most * k / kBlock);
  const Inputs inputs{low.data(), high.data(), blocks.data(), k};
  for (int r = 0; r < most; r++) {
    for (float& v : x) v = normal(generator) * (generator() % 100 < 2 ? 8 : 1);  // 8 % of lines have an outlier, as models' do
    find_kernels("auto")->quantize(x.data(), 4, inputs.row(r));
  }
  std::printf("%-16s", "rows");
  for (int rows : kRows) std::printf("%12d", rows);
  for (Format format : {Format::q4_1, Format::q8_0, Format::a8, Format::q4_k, Format::q6_k}) {
    const long bytes = (long)k / info(format).span * info(format).tile_bytes();
    std::vector<uint8_t> tiles(num_tiles * bytes);
    for (uint8_t& b : tiles) b = generator() & 0x3b;  // halves are finite
    for (const Kernels* kernels : available_kernels()) {
      if (!std::strcmp(kernels->isa, "portable")) continue;
      std::printf("\n%-7s%-9s", info(format).name, kernels->isa);
      for (int rows : kRows) {
        auto speed = [&](void (*gemm)(const Gemm&)) {
          using Clock = std::chrono::steady_clock;
          double best = 1e9;
          for (int i = 0; i < 7; i++) {
            const auto start = Clock::now();
            gemm({tiles.data(), format, num_tiles, inputs, rows, out.data(), num_tiles * kLanes, Then::store, nullptr});
            best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
          }
          return 2.0 * rows * num_tiles * kLanes * k / best / 1e9;
        };
        std::printf(kernels->gemm == kernels->gemm_many ? "%12.0f" : "%6.0f", speed(kernels->gemm));
        if (kernels->gemm != kernels->gemm_many) std::printf("%6.0f", speed(kernels->gemm_many));
        std::fflush(stdout);
      }
    }
  }
  std::puts("");
}
