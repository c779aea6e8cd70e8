// Compares every kernel set that runs here with the portable one, bit for bit. A program of its own, so that kernels of
// another machine can be checked under emulation (tests/engine/test_cpu_emulated.py).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "half.h"
#include "kernels.h"

static std::mt19937 generator(1);

static std::vector<float> floats(size_t n, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = normal(generator);
  return v;
}

static std::vector<uint8_t> bytes(size_t n) {
  std::vector<uint8_t> v(n);
  for (uint8_t& x : v) x = (uint8_t)generator();
  return v;
}

static void expect(bool same, const char* what) {
  if (same) return;
  std::printf("%s differs\n", what);
  std::exit(1);
}

template <class T>
static void expect_same(const std::vector<T>& a, const std::vector<T>& b, const char* what) {
  expect(a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)), what);
}

struct QuantizedRows {
  std::vector<int8_t> low, high;
  std::vector<Inputs::Group> groups;

  explicit QuantizedRows(int n) : low(n * kGroup), high(n * kGroup), groups(n) {}
  Inputs inputs() { return {low.data(), high.data(), groups.data()}; }
};

// Values of which every seventh is much larger than its group, or in the last group so large that the rest is lost.
static QuantizedRows quantize(const Kernels& kernels, std::vector<float> x) {
  const int n = (int)x.size(), groups = n / kGroup;
  for (int i = 0; i < n; i += 7) x[i] *= i < n - kGroup ? 50 : 5000;
  QuantizedRows rows(groups);
  kernels.quantize(x.data(), groups, 4, rows.inputs());
  return rows;
}

static void check_rows(const Kernels& a, const Kernels& b) {
  const int n = 96;
  const auto x = floats(n, 3), w = floats(n), angle = floats(n);
  std::vector<float> u(n), v(n), s(n), t(n);
  a.rms_norm(x.data(), w.data(), 1e-5f, n, u.data()), b.rms_norm(x.data(), w.data(), 1e-5f, n, v.data());
  expect_same(u, v, "rms_norm");
  a.swiglu(x.data(), n / 32, u.data()), b.swiglu(x.data(), n / 32, v.data());
  expect_same(u, v, "swiglu");
  a.rope(x.data(), angle.data(), w.data(), n / 2, 0.3f, u.data());
  b.rope(x.data(), angle.data(), w.data(), n / 2, 0.3f, v.data());
  expect_same(u, v, "rope");
  const QuantizedRows q = quantize(a, x), r = quantize(b, x);
  expect_same(q.low, r.low, "quantize's low parts");
  expect_same(q.high, r.high, "quantize's high parts");
  expect_same(q.groups, r.groups, "quantize's groups");
  const auto logits = floats(1000, 9);
  std::vector<float> p(1000), o(1000), c(4), d(4);
  bool one, other;
  expect(a.max_value(logits.data(), 997, &one) == b.max_value(logits.data(), 997, &other) && one && other, "max_value");
  a.softmax_terms(logits.data(), 997, 0.7f, 20, p.data(), c.data());
  b.softmax_terms(logits.data(), 997, 0.7f, 20, o.data(), d.data());
  expect_same(p, o, "softmax_terms");
  expect_same(c, d, "softmax_terms' sums");
}

struct alignas(64) Line {
  float lane[kLanes];
};

// The same bytes, but from a multiple of 64 on.
template <class T>
static std::vector<Line> aligned(const std::vector<T>& v) {
  std::vector<Line> lines(v.size() * sizeof(T) / sizeof(Line));
  std::memcpy(lines.data(), v.data(), lines.size() * sizeof(Line));
  return lines;
}

static void check_products(const Kernels& a, const Kernels& b) {
  const int rows = 7, num_tiles = 8, groups = 3, k = groups * kGroup, ldo = num_tiles * kLanes;
  const auto start = aligned(floats(rows * ldo));
  for (int flags = 0; flags < 6; flags++) {
    const bool nibbles = flags & 1;
    const Then then = (Then)(flags / 2);
    auto tiles = aligned(bytes((size_t)num_tiles * groups * tile_bytes(nibbles)));
    uint8_t* first = (uint8_t*)tiles.data();
    for (int i = 0; i < num_tiles * groups; i++)
      for (int j = 0; j < 2 * kLanes; j++)
        ((uint16_t*)(first + (i + 1) * tile_bytes(nibbles)))[-1 - j] = float_to_half(floats(1, 0.01f)[0]);
    const auto wide = floats((size_t)num_tiles * k * kLanes), x = floats(rows * k);
    QuantizedRows q = quantize(a, x);
    Prefetch none{};
    auto run = [&](const Kernels& kernels, std::vector<Line>& out) {
      kernels.gemm_q8({first, nibbles, num_tiles, groups, q.inputs(), rows, out[0].lane, ldo, then, first, &none});
    };
    auto u = start, v = start;
    run(a, u), run(b, v);
    expect_same(u, v, "gemm_q8");
    a.gemm_f32({wide.data(), num_tiles, k - 1, x.data(), k, rows, u[0].lane, ldo, then});
    b.gemm_f32({wide.data(), num_tiles, k - 1, x.data(), k, rows, v[0].lane, ldo, then});
    expect_same(u, v, "gemm_f32");
  }
}

static void check_attention(const Kernels& a, const Kernels& b) {
  const int d = 24, width = 32, block = 32, blocks = 10;
  const int32_t table[] = {3, 1, 9, 0, 2, 7, 5, 4, 8, 6};
  for (bool integers : {false, true}) {
    const long stride = kv_block_bytes(integers, block, d);
    auto cache = floats(stride * blocks / 4, 0.01f);
    if (integers)
      for (int i = 0; i < blocks; i++) {  // all but the scales, which are not negative
        for (long k = i * stride / 4; k < (i + 1) * stride / 4; k++) cache[k] = std::abs(cache[k]);
        const auto numbers = bytes(block * (2 * d + width));
        int8_t* to = (int8_t*)cache.data() + i * stride;
        std::memcpy(to, numbers.data(), numbers.size());
        for (int k = 0; k < 2 * block * d; k += 2) to[k + 1] %= 8;  // within kKeyLimit
      }
    for (int n : {1, 3, 20}) {
      const auto q = floats(n * width, integers ? 1 : 30);
      std::vector<int32_t> visible;
      for (int i = 0; i < n; i++) visible.push_back(281 + i);
      auto run = [&](const Kernels& kernels) {
        std::vector<float> out(n * width), max(n), sum(n), all(n * d), scale(n);
        std::vector<int16_t> words(n * width);
        for (int i = 0; i < n; i++)
          scale[i] = kernels.round_row(&q[i * width], width, query_limit(d), &words[i * width]);
        const Spans spans{{(char*)cache.data(), stride, block, d, integers}, table, 0, 3, 280 + n};
        kernels.attend({spans, spans, q.data(), words.data(), scale.data(), visible.data(), n, out.data(), max.data(),
                        sum.data()});
        for (int i = 0; i < n; i++) kernels.finish(&out[i * width], sum[i], d, &all[i * d]);
        return all;
      };
      expect_same(run(a), run(b), "attend");
    }
  }
}

int main() {
  const Kernels& portable = *find_kernels("portable");
  for (const char* isa : {"avx512", "avxvnni", "avx2", "neon"}) {
    const Kernels* kernels = find_kernels(isa);
    if (!kernels) continue;
    check_rows(portable, *kernels);
    check_products(portable, *kernels);
    check_attention(portable, *kernels);
    std::printf("%s ok\n", isa);
  }
}
