// All kernels for one width of vectors; compiled once for each.
#include "kernels.h"

#include "gate.h"
#include "input_gradient.h"
#include "norm.h"
#include "weight_gradient.h"

namespace igcnet {
namespace {

void convolve_backward(const Convolution& given, const Norm& norm, const float* x,
                       const float* weight, const float* dz, float* dx, float* dweight,
                       const NormGradient& result) {
  const Convolution c = with_long_rows(given);
  const WeightTasks tasks(c);
  Array<float> packed(tasks.count), parts(tasks.splits * tasks.count);
  pack(c, weight, true, packed);
  memset(parts, 0, tasks.splits * tasks.count * sizeof(float));
  const size_t planes = static_cast<size_t>(c.blocks) * c.in.channels;
  Array<double> gradient(planes), product(planes);
  const NormSums sums = {gradient, product};
  const int chunks = chunks_of(c, c.group_in());
  const int weights = tasks.tiles * tasks.splits, inputs = c.blocks * c.groups * chunks;
  // Where both kinds of task are a block's group, each pair reads the same planes.
  const bool pairs = weights == inputs && tasks.tiles == c.groups && chunks == 1;
#pragma omp parallel for schedule(dynamic)
  for (int task = 0; task < (pairs ? weights : weights + inputs); ++task) {
    if (task < weights) weight_task(c, tasks, norm, x, dz, parts, task);
    if (pairs || task >= weights)
      input_gradient_part(c, norm, x, packed, dz, dx, sums,
                          Part(pairs ? task : task - weights, c.groups, chunks, c.group_in()));
  }
  add_splits(tasks, parts, dweight);
  if (norm.scale) finish_norm(c.batch, c.in, norm, x, dx, sums, result);
}

double multiply_adds(long rounds) {
  constexpr int kSums = 12;
  vec sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = spread(1.0f + i);
  const vec a = spread(0.5f), b = spread(0.25f);
  for (long r = 0; r < rounds; ++r)
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * a + b;
  vec total = {};
  for (int i = 0; i < kSums; ++i) total += sums[i];
  return sum(total) == 0 ? 0 : static_cast<double>(rounds) * kSums * kWidth;
}

}  // namespace

#if !defined(IGCNET_BUILD)
#define IGCNET_BUILD kBaseline
#define IGCNET_BUILD_NAME "baseline"
#endif

extern const Kernels IGCNET_BUILD = {
    IGCNET_BUILD_NAME, convolve, convolve_backward, norm_forward, norm_backward,
    gate,              gate_backward, to_lanes,       from_lanes,   multiply_adds};

}  // namespace igcnet
