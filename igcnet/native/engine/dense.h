// Fully connected layers of many images at once: a weight is read once for several images.
#ifndef IGCNET_ENGINE_DENSE_H_
#define IGCNET_ENGINE_DENSE_H_

#include "activation.h"

namespace igcnet {
namespace engine {
namespace {

constexpr int kDenseVectors = kWidth == 4 ? 2 : kDenseBlock / kWidth;  // of outputs, at a time
constexpr int kImages = kWidth == 16 ? 8 : kWidth == 8 ? 3 : 4;        // at a time

template <int Images>
inline void few_images(const Dense& d, int block, int column, const float* in, int in_step,
                       float* out, int out_step) {
  vec sums[Images][kDenseVectors];
  const int64_t first = static_cast<int64_t>(block) * kDenseBlock + column;
  for (int v = 0; v < kDenseVectors; ++v)
    for (int i = 0; i < Images; ++i) sums[i][v] = load(d.bias + first + v * kWidth);
  const float* weight = d.weight + static_cast<int64_t>(block) * d.inputs * kDenseBlock + column;
  for (int k = 0; k < d.inputs; ++k, weight += kDenseBlock)
#pragma GCC unroll 8
    for (int i = 0; i < Images; ++i) {
      const vec x = spread(in[static_cast<int64_t>(i) * in_step + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kDenseVectors; ++v) sums[i][v] += load(weight + v * kWidth) * x;
    }
  const vec low = spread(d.low), high = spread(d.high);
  for (int i = 0; i < Images; ++i)
    for (int v = 0; v < kDenseVectors; ++v)
      store(out + static_cast<int64_t>(i) * out_step + first + v * kWidth,
            clamp<Whole>(sums[i][v], low, high));
}

template <int Images>
inline void images(const Dense& d, int block, int count, const float* in, int in_step, float* out,
                   int out_step) {
  for (int column = 0; column < kDenseBlock; column += kDenseVectors * kWidth) {
    int i = 0;
    for (; i + Images <= count; i += Images)
      few_images<Images>(d, block, column, in + static_cast<int64_t>(i) * in_step, in_step,
                         out + static_cast<int64_t>(i) * out_step, out_step);
    for (; i < count; ++i)
      few_images<1>(d, block, column, in + static_cast<int64_t>(i) * in_step, in_step,
                    out + static_cast<int64_t>(i) * out_step, out_step);
  }
}

void dense(const Dense& d, int count, const float* in, int in_step, float* out, int out_step,
           Part part) {
  for (int block = part.begin(d.blocks); block < part.end(d.blocks); ++block)
    images<kImages>(d, block, count, in, in_step, out, out_step);
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_DENSE_H_
