// How 32 weights become 8 bits each: exactly, where the checkpoint was itself quantised in groups of 32.
#include <algorithm>
#include <cmath>

#include "half.h"
#include "weights.h"

static constexpr int kSize = 32;

static uint16_t half_at_least(float x) {
  const uint16_t h = float_to_half(x);
  return half_to_float(h) < x ? h + 1 : h;
}

// To the nearest integer, ties to even, within 2^22 of zero. Unlike nearbyintf, compilers vectorise it.
static float round_even(float x) {
  constexpr float kShift = 0x1.8p23f;
  return (x + kShift) - kShift;
}

// Whether all values lie on low + step * {0 .. top}, as they do when they were read from such a grid.
static bool on_grid(const float* x, float step, float low, float top, float tolerance, uint8_t* q) {
  const float inverse = 1 / step;
  constexpr int kPart = 8;  // most grids that do not fit are given up at once
  for (int i = 0; i < kSize; i += kPart) {
    int outside = 0;
    for (int j = i; j < i + kPart; j++) {
      const float level = round_even((x[j] - low) * inverse);
      outside |= !(level >= 0) | !(level <= top) | !(std::fabs(low + step * level - x[j]) <= tolerance);
      q[j] = (uint8_t)(int)level;
    }
    if (outside) return false;
  }
  return true;
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

bool fit_group(const float* x, int bits, uint8_t* q, uint16_t* scale, uint16_t* low) {
  float lo, hi;
  find_range(x, lo, hi);
  const float amax = std::max(-lo, hi), range = hi - lo;
  *scale = 0, *low = float_to_half(lo);
  std::fill(q, q + kSize, 0);
  if (!(lo > -65504.0f && hi < 65504.0f)) return false;
  const float tolerance = amax * 2e-6f;  // rounding of float32 products and sums, far below half precision's steps
  if (range == 0 && half_to_float(*low) == lo) return true;
  auto exact = [&](float step, float bottom) {
    *scale = float_to_half(step), *low = float_to_half(bottom);
    const float s = half_to_float(*scale);
    return s > 0 && on_grid(x, s, half_to_float(*low), bits == 4 ? 15 : 255, tolerance, q);
  };
  for (int levels = 15; levels >= 8; levels--)  // Q4_1: both ends are on the grid
    if (exact(range / levels, lo)) return true;
  const float d8 = half_to_float(float_to_half(amax / 127)), d4 = half_to_float(float_to_half(amax / 8));
  if (bits == 8 && exact(amax / 127, -128 * d8)) return true;  // Q8_0
  if (exact(amax / 8, -8 * d4)) return true;  // Q4_0
  if (bits == 4) {
    fit_nearest(x, lo, hi, q, scale, low);
    return true;
  }
  *low = float_to_half(lo);
  if (half_to_float(*low) > lo) *low = float_to_half(lo - std::fabs(lo) * 0x1p-10f - 0x1p-24f);
  const float bottom = half_to_float(*low);
  *scale = half_at_least((hi - bottom) / 255);
  const float step = half_to_float(*scale);
  for (int i = 0; i < kSize; i++)
    q[i] = (uint8_t)std::clamp(round_even((x[i] - bottom) / step), 0.0f, 255.0f);
  return true;
}
