// A product with a sigmoid.
#ifndef IGCNET_GATE_H_
#define IGCNET_GATE_H_

#include "vectors.h"

namespace igcnet {
namespace {

typedef int whole __attribute__((vector_size(kWidth * 4), may_alias));

// exp to about 1e-7 of its value, for numbers up to 87 on either side of 0.
inline vec exponential(vec x) {
  const vec limit = spread(87.0f), half = spread(0.5f);
  x = x < limit ? x : limit;
  x = x > -limit ? x : -limit;
  const vec scaled = x * 1.44269504f;  // x = n ln 2 + r
  const whole n = __builtin_convertvector(scaled + (scaled > vec{} ? half : -half), whole);
  const vec count = __builtin_convertvector(n, vec);
  const vec r = x - count * 0.693359375f + count * 2.12194440e-4f;
  // Taylor's series: |r| is at most ln 2 / 2.
  static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  vec value = spread(1.0f / 5040);
  for (const float term : terms) value = value * r + term;
  const whole exponent = (n + 127) << 23;
  vec power;
  memcpy(&power, &exponent, sizeof(power));
  return value * power;
}

inline vec sigmoid(vec x) { return spread(1.0f) / (exponential(-x) + 1.0f); }

// Calls `action(start)` for every vector. In lanes, `count` is a multiple of 16.
template <typename Action>
void each_vector(size_t count, const Action& action) {
  const long vectors = static_cast<long>(count / kWidth);
#pragma omp parallel for schedule(static)
  for (long i = 0; i < vectors; ++i) action(static_cast<size_t>(i) * kWidth);
}

void gate(size_t count, const float* x, const float* gates, float* y) {
  each_vector(count, [=](size_t at) {
    store(y + at, load(x + at) * sigmoid(load(gates + at)));
  });
}

void gate_backward(size_t count, const float* x, const float* gates, const float* dy, float* dx,
                   float* dgate) {
  each_vector(count, [=](size_t at) {
    const vec open = sigmoid(load(gates + at)), passed = load(dy + at) * open;
    store(dx + at, passed);
    store(dgate + at, passed * load(x + at) * (1.0f - open));
  });
}

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_GATE_H_
