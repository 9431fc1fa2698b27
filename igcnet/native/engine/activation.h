// What is done to a sum before it is stored.
#ifndef IGCNET_ENGINE_ACTIVATION_H_
#define IGCNET_ENGINE_ACTIVATION_H_

#if defined(__AVX512VL__)
#include <immintrin.h>
#endif
#include <stdint.h>

#include "../src/vectors.h"
#include "kernels.h"

namespace igcnet {
namespace engine {
namespace {

// Vectors as the processor has them, and half as wide for narrow maps where that is less work.
struct Whole {
  typedef vec floats;
  typedef int32_t ints __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
  static constexpr int kCount = kWidth;
};
#if defined(__AVX512F__)
struct Half {
  typedef float floats __attribute__((vector_size(kWidth * 2), aligned(4), may_alias));
  typedef int32_t ints __attribute__((vector_size(kWidth * 2), aligned(4), may_alias));
  static constexpr int kCount = kWidth / 2;
};
#else
typedef Whole Half;
#endif

template <typename W>
inline typename W::floats masked(typename W::floats value, const int32_t* mask) {
  typedef typename W::ints ints;
  return reinterpret_cast<typename W::floats>(reinterpret_cast<ints>(value) &
                                              *reinterpret_cast<const ints*>(mask));
}

template <typename W>
inline typename W::floats load_as(const float* from) {
  return *reinterpret_cast<const typename W::floats*>(from);
}

// The first `count` numbers of a vector.
template <typename W>
inline void store_some(float* to, typename W::floats value, int count) {
  if (count >= W::kCount) {
    *reinterpret_cast<typename W::floats*>(to) = value;
    return;
  }
  float part[W::kCount];
  *reinterpret_cast<typename W::floats*>(part) = value;
  for (int i = 0; i < count; ++i) to[i] = part[i];
}
#if defined(__AVX512VL__)
template <>
inline void store_some<Whole>(float* to, vec value, int count) {
  _mm512_mask_storeu_ps(to, count < 16 ? (1u << count) - 1 : 0xffff, (__m512)value);
}
template <>
inline void store_some<Half>(float* to, Half::floats value, int count) {
  _mm256_mask_storeu_ps(to, count < 8 ? (1u << count) - 1 : 0xff, (__m256)value);
}
#endif

// A value that is not a number stays what it is.
template <typename W>
inline typename W::floats clamp(typename W::floats value, typename W::floats least,
                                typename W::floats most) {
  value = least > value ? least : value;
  return most < value ? most : value;
}

// e^x for x up to 0. e^x = 2^n e^r with |r| <= log(2)/2; e^r by its series, whose first term left
// out is below 2e-7 of it; below -87, where floats end, e^-87.
template <typename W>
inline typename W::floats exponential(typename W::floats x) {
  typedef typename W::floats floats;
  typedef typename W::ints ints;
  const floats end = -87.0f - floats{};
  x = end > x ? end : x;
  const float shift = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to integers
  const floats shifted = x * 1.44269504f + shift;
  const floats n = shifted - shift;
  const floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  floats sum = 1.0f / 720 - floats{};
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const ints power = (reinterpret_cast<ints>(shifted) << 23) + (127 << 23);
  return sum * reinterpret_cast<floats>(power);
}

// Not inlined: it is seldom needed, and long.
template <typename W>
__attribute__((noinline)) typename W::floats sigmoid(typename W::floats x) {
  const typename W::floats zero = {};
  const typename W::floats small = exponential<W>(x < zero ? x : -x);
  const typename W::floats large = 1.0f / (1.0f + small);
  return x < zero ? small * large : large;
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_ACTIVATION_H_
