// A norm on its own, with its activation and a sum, and the way into lanes and back.
#ifndef IGCNET_NORM_H_
#define IGCNET_NORM_H_

#include "input_gradient.h"

namespace igcnet {
namespace {

void norm_forward(int batch, const Map& map, const int* out_plane, const Norm& norm,
                  const float* z, const float* residual, float* y) {
  const int blocks = divide_up(batch, kLanes);
#pragma omp parallel for schedule(dynamic, 8)
  for (int task = 0; task < blocks * map.channels; ++task) {
    const int c = task % map.channels;
    const LaneMask mask(batch, task / map.channels);
    const float* from = z + task * map.plane();
    const size_t start = (task - c + out_plane[c]) * map.plane();
    const vec scale = spread(norm.scale[c]);
    for (int h = 0; h < kParts; ++h) {
      const vec shift = mask.part[h] * norm.shift[c];
      for (size_t at = h * kWidth; at < map.plane(); at += kLanes) {
        vec value = load(from + at) * scale + shift;
        if (residual) value += load(residual + start + at);
        store(y + start + at, activate(value, norm.act));
      }
    }
  }
}

void norm_backward(int batch, const Map& map, const int* out_plane, const Norm& norm,
                   const float* z, const float* residual, const float* dy, float* dz,
                   float* dresidual, const NormGradient& result) {
  const int blocks = divide_up(batch, kLanes);
  const size_t planes = static_cast<size_t>(blocks) * map.channels;
  Array<double> gradient(planes), product(planes);
#pragma omp parallel for schedule(dynamic, 8)
  for (int task = 0; task < blocks * map.channels; ++task) {
    const int c = task % map.channels;
    const size_t from = task * map.plane();
    const size_t start = (task - c + out_plane[c]) * map.plane();
    const vec scale = spread(norm.scale[c]), shift = spread(norm.shift[c]),
              mean = spread(norm.mean[c]);
    float lanes[2 * kLanes];
    for (int h = 0; h < kParts; ++h) {
      vec total = {}, products = {};
      for (size_t at = h * kWidth; at < map.plane(); at += kLanes) {
        const vec value = load(z + from + at);
        vec before = value * scale + shift;
        if (residual) before += load(residual + start + at);
        const vec passed = pass(load(dy + start + at), before, norm.act);
        total += passed;
        products += passed * (value - mean);
        store(dz + from + at, passed);
        if (residual) store(dresidual + start + at, passed);
      }
      store(lanes + h * kWidth, total);
      store(lanes + kLanes + h * kWidth, products);
    }
    gradient[task] = sum_of_lanes(lanes);
    product[task] = sum_of_lanes(lanes + kLanes);
  }
  const NormSums sums = {gradient, product};
  finish_norm(batch, map, norm, z, dz, sums, result);
}

// 16 pixels of 16 images at a time; what a block has too many of is zero.
void to_lanes(int batch, const Map& map, const float* x, float* lanes) {
  const size_t pixels = static_cast<size_t>(map.height) * map.width;
  const int blocks = divide_up(batch, kLanes);
#pragma omp parallel for schedule(dynamic, 8)
  for (int task = 0; task < blocks * map.channels; ++task) {
    const int block = task / map.channels, c = task % map.channels;
    const int images = images_in(batch, block);
    float* to = lanes + task * map.plane();
    if (images < kLanes) memset(to, 0, map.plane() * sizeof(float));
    for (size_t start = 0; start < pixels; start += kLanes) {
      const size_t end = start + kLanes < pixels ? start + kLanes : pixels;
      for (int lane = 0; lane < images; ++lane) {
        const float* from = x + ((static_cast<size_t>(block) * kLanes + lane) * map.channels + c)
            * pixels;
        for (size_t p = start; p < end; ++p) to[p * kLanes + lane] = from[p];
      }
    }
  }
}

void from_lanes(int batch, const Map& map, const float* lanes, float* x) {
  const size_t pixels = static_cast<size_t>(map.height) * map.width;
#pragma omp parallel for schedule(dynamic, 8)
  for (int task = 0; task < batch * map.channels; ++task) {
    const int image = task / map.channels, c = task % map.channels;
    const float* from = lanes + (static_cast<size_t>(image / kLanes) * map.channels + c)
        * map.plane() + image % kLanes;
    float* to = x + task * pixels;
    for (size_t p = 0; p < pixels; ++p) to[p] = from[p * kLanes];
  }
}

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_NORM_H_
