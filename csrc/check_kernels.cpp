// Compares every kernel set that runs here with the portable one, bit for bit. A program of its own, so that kernels of
// another machine can be checked under emulation (tests/engine/test_cpu_emulated.py).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "codec.h"
#include "half.h"
#include "kernels.h"
#include "sleep.h"
#include "tile_model.h"

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
  std::vector<Inputs::Block> blocks;
  int k;

  QuantizedRows(int rows, int columns) : low(rows * columns), high(rows * columns), k(columns) {
    blocks.resize(rows * inputs().blocks());
    std::memset((void*)blocks.data(), 0, blocks.size() * sizeof(Inputs::Block));
  }
  Inputs inputs() { return {low.data(), high.data(), blocks.data(), k}; }
};

// Rows of five kinds: every seventh value much larger than its block; one value in all that is 300, 3,000 or 30,000 times
// the mean, so that the rest of its block is lost; no outliers at all.
static QuantizedRows quantize(const Kernels& kernels, std::vector<float> x, int k) {
  const int rows = (int)x.size() / k;
  for (int r = 0; r < rows; r++) {
    float* row = x.data() + r * k;
    if (r % 5 == 0)
      for (int i = r % 7; i < k; i += 7) row[i] *= 50;
    else if (r % 5 < 4)
      row[r * 97 % k] = r % 5 == 1 ? 300 : r % 5 == 2 ? -3000 : 30000;
    else
      for (int i = 0; i < k; i++) row[i] = i % 40 ? 1 : -1;
  }
  QuantizedRows q(rows, k);
  for (int r = 0; r < rows; r++) kernels.quantize(x.data() + r * k, 4, q.inputs().row(r));
  return q;
}

static void check_rows(const Kernels& a, const Kernels& b) {
  const int n = 96;
  const auto x = floats(n, 3), w = floats(n), angle = floats(n);
  std::vector<float> u(n), v(n), s(n), t(n);
  a.rms_norm(x.data(), w.data(), 1e-5f, n, u.data()), b.rms_norm(x.data(), w.data(), 1e-5f, n, v.data());
  expect_same(u, v, "rms_norm");
  a.swiglu(x.data(), w.data(), n, u.data()), b.swiglu(x.data(), w.data(), n, v.data());
  expect_same(u, v, "swiglu");
  a.rope(x.data(), angle.data(), w.data(), n / 2, 0.3f, u.data());
  b.rope(x.data(), angle.data(), w.data(), n / 2, 0.3f, v.data());
  expect_same(u, v, "rope");
  for (int d : {6, 24, 80, 64}) {
    std::vector<float> whole(n, 0);  // numbers whose sums are exact
    for (int i = 0; i < d; i++) whole[i] = (float)(i * i % 37);
    u = v = whole;
    a.hadamard(u.data(), d), b.hadamard(v.data(), d);
    expect_same(u, v, "hadamard");
    float sum = 0;
    for (int i = 0; i < hadamard_size(d); i++) sum += whole[i];
    expect(u[0] == sum, "hadamard's first");
    a.hadamard(u.data(), d);
    for (float& y : u) y /= (float)hadamard_size(d);
    expect_same(u, whole, "hadamard of hadamard");
    v = x, u = x;
    std::fill(u.begin() + d, u.end(), 0.0f), std::fill(v.begin() + d, v.end(), 0.0f);
    a.hadamard(u.data(), d), b.hadamard(v.data(), d);
    expect_same(u, v, "hadamard");
  }
  const auto long_rows = floats(5 * 576, 3);
  const QuantizedRows q = quantize(a, long_rows, 576), r = quantize(b, long_rows, 576);
  expect_same(q.low, r.low, "quantize's low parts");
  expect_same(q.high, r.high, "quantize's high parts");
  expect_same(q.blocks, r.blocks, "quantize's blocks");
  const auto logits = floats(1000, 9);
  std::vector<float> p(1000), o(1000), c(4), d(4);
  bool one, other;
  expect(a.max_value(logits.data(), 997, &one) == b.max_value(logits.data(), 997, &other) && one && other, "max_value");
  std::vector<uint32_t> mask(32);
  for (size_t i = 0; i < mask.size(); i += 1 + i % 3) mask[i] = (uint32_t)generator();
  const float top = a.masked(logits.data(), 997, mask.data(), p.data());
  expect(top == b.masked(logits.data(), 997, mask.data(), o.data()), "masked's largest");
  expect_same(p, o, "masked");
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

// Random codes, at their extremes in some rows, and scales of either sign.
static RowSpan random_span(const FormatInfo& of, int row) {
  RowSpan x;
  const auto codes = bytes(sizeof x.u), scales = bytes(32);
  const int most = of.has_table ? 15 : (1 << of.bits) - 1;
  for (int i = 0; i < of.span; i++) x.u[i] = row % 5 == 3 ? most : codes[i] & most;
  for (int g = 0; g < of.scales(); g++) {
    const int s = row % 5 == 3 ? 63 : scales[g] & 63;
    x.s[g] = (int8_t)(of.packs_scales() ? s & 15 : of.has_minima ? s : of.bits == 6 ? 2 * s - 127 : s - 32);
    x.t[g] = scales[16 + g] & (of.packs_scales() ? 15 : 63);
  }
  if (of.has_zeros) x.t[0] = scales[0] & 15;
  x.d = float_to_half(floats(1, 0.01f)[0]), x.m = float_to_half(floats(1, 0.01f)[0]);
  return x;
}

struct Tiles {
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // (rows, k)
};

static Tiles make_tiles(Format format, int num_tiles, int k) {
  const FormatInfo& of = info(format);
  Tiles tiles{std::vector<uint8_t>((size_t)num_tiles * k / of.span * of.tile_bytes()),
              std::vector<float>((size_t)num_tiles * kLanes * k)};
  for (int t = 0; t < num_tiles; t++)
    for (int c = 0; c < k / of.span; c++) {
      RowSpan rows[kLanes];
      uint8_t* tile = tiles.bytes.data() + ((size_t)t * (k / of.span) + c) * of.tile_bytes();
      for (int i = 0; i < kLanes; i++) {
        rows[i] = random_span(of, t * kLanes + i);
        values(format, rows[i], &tiles.values[(size_t)(t * kLanes + i) * k + c * of.span]);
      }
      pack(format, rows, tile);
      for (int i = 0; i < kLanes; i++) {
        RowSpan back;
        std::vector<float> u(of.span), v(of.span);
        unpack(format, tile, i, back);
        values(format, rows[i], u.data()), values(format, back, v.data());
        expect_same(u, v, "pack and unpack");
      }
    }
  return tiles;
}

// What the rounded inputs stand for.
static std::vector<double> input_values(QuantizedRows& q, int rows) {
  std::vector<double> x(q.low.size());
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < q.k; i++) {
      const Inputs in = q.inputs().row(r);
      const Inputs::Block& b = in.block[i / kBlock];
      x[r * q.k + i] = b.scale * ((b.marks >> i % kBlock / 4 & 1 ? 255.0 * in.high[i] : 0) + in.low[i]);
    }
  return x;
}

static void check_products(const Kernels& a, const Kernels& b) {
  constexpr int kCounts[] = {1, 2, 4, 7, 15, 16, 17, 33, 129, 150}, rows = 150, num_tiles = 2;
  for (int f = (int)Format::a8; f < kFormats; f++) {
    const Format format = (Format)f;
    const int k = info(format).is_block() ? 768 : info(format).span > 64 ? 640 : 576, ldo = num_tiles * kLanes;
    const Tiles tiles = make_tiles(format, num_tiles, k);
    QuantizedRows q = quantize(a, floats(rows * k), k);
    const auto x = input_values(q, rows);
    const auto start = aligned(floats(rows * ldo));
    int turn = f;
    for (int count : kCounts) {
      const Then then = (Then)(turn++ % 3);
      auto run = [&](const Kernels& kernels) {
        auto out = start;
        Prefetch none{};
        const auto gemm = &kernels == &b ? kernels.gemm_many : kernels.gemm;
        gemm({tiles.bytes.data(), format, num_tiles, q.inputs(), count, out[0].lane, ldo, then, &none});
        return out;
      };
      const auto u = run(a), v = run(b);
      expect(b.gemm == b.gemm_many || before_sleep, "what is held");
      if (turn % 2 && before_sleep) std::exchange(before_sleep, nullptr)();  // as between two steps
      expect_same(u, v, info(format).name);
      for (int i = 0; count < 16 && then != Then::add && i < count * ldo; i++) {
        double sum = 0, size = 0;  // of codes and offsets, which are summed apart
        const float* w = &tiles.values[(size_t)(i % ldo) * k];
        const double most = std::abs(*std::max_element(w, w + k, [](float a, float b) { return std::abs(a) < std::abs(b); }));
        for (int c = 0; c < k; c++) sum += x[i / ldo * k + c] * w[c], size += std::abs(x[i / ldo * k + c]) * most;
        expect(std::abs(sum - u[i / kLanes].lane[i % kLanes]) <= 3e-6 * size, info(format).name);
      }
    }
  }
}

static void check_float_products(const Kernels& a, const Kernels& b) {
  const int rows = 7, num_tiles = 8, k = 96, ldo = num_tiles * kLanes;
  const auto start = aligned(floats(rows * ldo)), wide = aligned(floats((size_t)num_tiles * k * kLanes));
  const auto x = floats(rows * k);
  for (Then then : {Then::store, Then::add, Then::stream}) {
    auto u = start, v = start;
    a.gemm_f32({wide[0].lane, num_tiles, k - 1, x.data(), k, rows, u[0].lane, ldo, then});
    b.gemm_f32({wide[0].lane, num_tiles, k - 1, x.data(), k, rows, v[0].lane, ldo, then});
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
        const auto numbers = bytes(block * (d + width));
        int8_t* to = (int8_t*)cache.data() + i * stride;
        std::memcpy(to, numbers.data(), numbers.size());
      }
    for (int n : {1, 3, 20}) {
      const auto q = floats(n * width, integers ? 1 : 30);
      std::vector<int32_t> visible;
      for (int i = 0; i < n; i++) visible.push_back(281 + i);
      auto run = [&](const Kernels& kernels) {
        std::vector<float> out(n * width), max(n), sum(n), all(n * d), scale(n);
        std::vector<int16_t> words(n * width);
        for (int i = 0; i < n; i++)
          scale[i] = kernels.round_row(&q[i * width], width, kWordLimit, &words[i * width]);
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

template <class A, class B>
static void check_tile_product(TileModel& unit) {
  const auto a = bytes(3 * 12), b = bytes(3 * 8);
  auto c = bytes(3 * 8);
  int32_t wanted[3][2], found[3][2];
  std::memcpy(wanted, c.data(), sizeof wanted);
  for (int m = 0; m < 3; m++)
    for (int n = 0; n < 2; n++)
      for (int k = 0; k < 12; k++)
        wanted[m][n] = (int32_t)((uint32_t)wanted[m][n] + (uint32_t)((A)a[m * 12 + k] * (B)b[k / 4 * 8 + n * 4 + k % 4]));
  unit.load(0, c.data(), 8), unit.load(1, a.data(), 12), unit.load(2, b.data(), 8);
  unit.multiply<A, B>(0, 1, 2);
  unit.store(0, found, 8);
  expect(!std::memcmp(found, wanted, sizeof found), "a product of tiles");
}

// The model of the tile unit: its products, and what a processor refuses.
static void check_tile_model() {
  TileModel unit;
  const auto refuses = [](auto run) {
    try {
      run();
    } catch (const std::logic_error&) {
      return true;
    }
    return false;
  };
  uint8_t config[64] = {1};
  const auto set = [&](int t, int rows, int columns) { config[16 + 2 * t] = columns, config[48 + t] = rows; };
  expect(refuses([&] { unit.zero(0); }), "a tile of no configuration");
  set(0, 3, 8), set(1, 3, 12), set(2, 3, 8), set(3, 4, 8), set(4, 3, 4), set(5, 2, 12), set(6, 3, 10);
  unit.configure(config);
  check_tile_product<int8_t, int8_t>(unit), check_tile_product<int8_t, uint8_t>(unit);
  check_tile_product<uint8_t, int8_t>(unit), check_tile_product<uint8_t, uint8_t>(unit);
  constexpr int kWrong[][3] = {{0, 0, 2}, {0, 1, 1}, {0, 1, 0}, {0, 1, 3}, {4, 1, 2}, {0, 5, 2}, {0, 6, 2}, {0, 1, 7}};
  for (auto& [c, a, b] : kWrong)
    expect(refuses([&] { unit.multiply<int8_t, int8_t>(c, a, b); }), "a product of tiles that do not fit");
  for (const auto& [at, value] : {std::pair{0, 2}, {1, 1}, {5, 1}, {16, 65}, {48, 17}, {48, 0}, {32, 1}, {63, 1}}) {
    const uint8_t right = config[at];
    config[at] = (uint8_t)value;
    expect(refuses([&] { unit.configure(config); }), "a wrong configuration");
    config[at] = right;
  }
  unit.configure(config), unit.release();
  expect(refuses([&] { unit.load(0, config, 0); }), "a tile that was released");
}

int main() {
  check_tile_model();
  const Kernels& portable = *find_kernels("portable");
  std::vector<const Kernels*> sets = available_kernels();
  sets.back() = find_kernels("amx-model");  // in place of the portable one itself
  for (const Kernels* kernels : sets) {
    check_rows(portable, *kernels);
    check_products(portable, *kernels);
    check_float_products(portable, *kernels);
    check_attention(portable, *kernels);
    std::printf("%s ok\n", kernels->isa);
  }
}
