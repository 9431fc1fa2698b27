// What is done to a sum before it is stored.
#ifndef IGCNET_ENGINE_ACTIVATION_H_
#define IGCNET_ENGINE_ACTIVATION_H_

#include <stdint.h>

#include "../src/vectors.h"
#include "kernels.h"

namespace igcnet {
namespace engine {
namespace {

typedef int32_t ints __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

inline vec masked(vec value, const int32_t* mask) {
  return reinterpret_cast<vec>(reinterpret_cast<ints>(value) &
                               *reinterpret_cast<const ints*>(mask));
}

// A value that is not a number stays what it is.
inline vec clamp(vec value, float low, float high) {
  const vec least = spread(low), most = spread(high);
  value = least > value ? least : value;
  return most < value ? most : value;
}

// e^x for x up to 0. e^x = 2^n e^r with |r| <= log(2)/2; e^r by its series, whose first term left
// out is below 2e-7 of it; below -87, where floats end, e^-87.
inline vec exponential(vec x) {
  x = clamp(x, -87.0f, 0.0f);
  const vec shift = spread(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded to integers
  const vec shifted = x * 1.44269504f + shift;
  const vec n = shifted - shift;
  const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec sum = spread(1.0f / 720);
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const ints power = (reinterpret_cast<ints>(shifted) << 23) + (127 << 23);
  return sum * reinterpret_cast<vec>(power);
}

inline vec sigmoid(vec x) {
  const vec zero = {};
  const vec small = exponential(x < zero ? x : -x);
  const vec large = 1.0f / (1.0f + small);
  return x < zero ? small * large : large;
}

inline vec activate(vec value, const Convolution& c) {
  return c.sigmoid ? sigmoid(value) : clamp(value, c.low, c.high);
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_ACTIVATION_H_
