// How 32 floats become codes of 8 or 4 bits.
#include <algorithm>
#include <cmath>

#include "codec.h"
#include "half.h"

static constexpr int kSize = kGroup;

static uint16_t half_at_least(float x) {
  const uint16_t h = float_to_half(x);
  return half_to_float(h) < x ? h + 1 : h;
}

// To the nearest integer, ties to even, within 2^22 of zero. Unlike nearbyintf, compilers vectorise it.
static float round_even(float x) {
  constexpr float kShift = 0x1.8p23f;
  return (x + kShift) - kShift;
}

// Lowest and highest value. Floats as integers that have their order: those have a vector minimum; and NaN is an end.
static void find_range(const float* x, float& lowest, float& highest) {
  auto flip = [](int32_t u) { return u ^ (u >> 31 & 0x7fffffff); };
  int32_t least = INT32_MAX, most = INT32_MIN;
  for (int i = 0; i < kSize; i++) {
    const int32_t v = flip((int32_t)float_to_bits(x[i]));
    least = std::min(least, v), most = std::max(most, v);
  }
  lowest = bits_to_float(flip(least)), highest = bits_to_float(flip(most));
}

// Adds pairs, so that compilers vectorise it. Destroys x.
static float sum(float* x) {
  for (int n = kSize / 2; n; n /= 2)
    for (int i = 0; i < n; i++) x[i] += x[i + n];
  return x[0];
}

// Rounds to the grid of 16 levels and returns the squared error.
static float round_to_grid(const float* x, float step, float low, float* q) {
  const float inverse = step > 0 ? 1 / step : 0;
  float error[kSize];
  for (int i = 0; i < kSize; i++) {
    const float level = round_even((x[i] - low) * inverse), positive = level > 0 ? level : 0;
    q[i] = positive < 15 ? positive : 15;
    const float miss = q[i] * step + low - x[i];
    error[i] = miss * miss;
  }
  return sum(error);
}

// Least squares: the grid on which these levels come nearest to x. total: sum of x.
static void fit_grid(const float* x, float total, const float* q, float& step, float& low) {
  float products[kSize], squares[kSize], levels[kSize];
  for (int i = 0; i < kSize; i++) products[i] = q[i] * x[i], squares[i] = q[i] * q[i], levels[i] = q[i];
  const float sq = sum(levels), spread = kSize * sum(squares) - sq * sq;  // an integer: 0 if all q are the same
  step = spread > 0 ? (kSize * sum(products) - sq * total) / spread : 0;
  low = (total - step * sq) / kSize;
}

// The best of 16-level grids by squared error. Starts from the whole range and from narrower ones, which cut off the
// extremes but round the rest finer, and lets least squares move each twice.
static void fit_nearest(const float* x, float lo, float hi, uint8_t* best, uint16_t* scale, uint16_t* low) {
  float copy[kSize], q[kSize], least = INFINITY;
  std::copy(x, x + kSize, copy);
  const float total = sum(copy);
  for (int cut = 0; cut < 3; cut++) {
    const float margin = (hi - lo) * 0.06f * (float)cut;
    float step = (hi - lo - 2 * margin) / 15, bottom = lo + margin;
    round_to_grid(x, step, bottom, q);
    for (int pass = 0; pass < 2; pass++) {
      fit_grid(x, total, q, step, bottom);
      const uint16_t s = float_to_half(step), m = float_to_half(bottom);
      step = half_to_float(s), bottom = half_to_float(m);
      const float error = round_to_grid(x, step, bottom, q);
      if (!(error < least)) continue;
      least = error, *scale = s, *low = m;
      for (int i = 0; i < kSize; i++) best[i] = (uint8_t)q[i];
    }
  }
}

// 255 levels about the middle, both in half precision: no value is further off than half a step.
static void fit_range(const float* x, float lo, float hi, RowSpan& to) {
  to.m = float_to_half(lo / 2 + hi / 2);
  const float middle = half_to_float(to.m);
  to.d = half_at_least(std::max(hi - middle, middle - lo) / 127);
  const float step = half_to_float(to.d), inverse = step > 0 ? 1 / step : 0;
  for (int i = 0; i < kSize; i++)
    to.u[i] = (uint8_t)(int8_t)(int)std::clamp(round_even((x[i] - middle) * inverse), -127.0f, 127.0f);
}

bool quantize(Format f, const float* x, RowSpan& to) {
  float lo, hi;
  find_range(x, lo, hi);
  if (!(lo > -65504.0f && hi < 65504.0f)) return false;
  if (f == Format::a8) {
    fit_range(x, lo, hi, to);
  } else {
    to.d = 0, to.m = float_to_half(lo);
    std::fill(to.u, to.u + kSize, 0);
    if (lo < hi) fit_nearest(x, lo, hi, to.u, &to.d, &to.m);
  }
  return true;
}
