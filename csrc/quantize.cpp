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

// Whether all values lie on low + step * {0 .. 255}, as they do when they were read from such a grid.
static bool on_grid(const float* x, float step, float low, float tolerance, uint8_t* q) {
  for (int i = 0; i < kSize; i++) {
    const float level = std::nearbyintf((x[i] - low) / step);
    if (!(level >= 0 && level <= 255 && std::fabs(low + step * level - x[i]) <= tolerance)) return false;
    q[i] = (uint8_t)level;
  }
  return true;
}

bool fit_group(const float* x, uint8_t* q, uint16_t* scale, uint16_t* low) {
  const auto [lowest, highest] = std::minmax_element(x, x + kSize);
  const float lo = *lowest, hi = *highest, amax = std::max(-lo, hi), range = hi - lo;
  *scale = 0, *low = float_to_half(lo);
  std::fill(q, q + kSize, 0);
  if (!(amax < 65504.0f)) return false;
  const float tolerance = amax * 2e-6f;  // rounding of float32 products and sums, far below half precision's steps
  if (range == 0 && half_to_float(*low) == lo) return true;
  auto exact = [&](float step, float bottom) {
    *scale = float_to_half(step), *low = float_to_half(bottom);
    const float s = half_to_float(*scale);
    return s > 0 && on_grid(x, s, half_to_float(*low), tolerance, q);
  };
  for (int levels = 15; levels >= 8; levels--)  // Q4_1: both ends are on the grid
    if (exact(range / levels, lo)) return true;
  const float d8 = half_to_float(float_to_half(amax / 127)), d4 = half_to_float(float_to_half(amax / 8));
  if (exact(amax / 127, -128 * d8)) return true;  // Q8_0
  if (exact(amax / 8, -8 * d4)) return true;      // Q4_0
  *low = float_to_half(lo);
  if (half_to_float(*low) > lo) *low = float_to_half(lo - std::fabs(lo) * 0x1p-10f - 0x1p-24f);
  const float bottom = half_to_float(*low);
  *scale = half_at_least((hi - bottom) / 255);
  const float step = half_to_float(*scale);
  for (int i = 0; i < kSize; i++)
    q[i] = (uint8_t)std::clamp(std::nearbyintf((x[i] - bottom) / step), 0.0f, 255.0f);
  return true;
}
