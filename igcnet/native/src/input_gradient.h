// The gradient of a convolution's input, through the norm that came before it if there is one.
#ifndef IGCNET_INPUT_GRADIENT_H_
#define IGCNET_INPUT_GRADIENT_H_

#include "convolve.h"

namespace igcnet {
namespace {

// For each plane of each block: sum of the gradient behind the norm, and of its product with the
// deviation from the mean.
struct NormSums {
  double *gradient, *product;
};

// What the gradient of input row `row` reads, for the pixels `phase`, `phase` + stride, ...; the
// planes that are read begin with row `base` of the output.
inline int gradient_taps(const Convolution& c, int row, int phase, int base, Tap* taps) {
  int count = 0;
  for (int ky = 0; ky < c.kernel; ++ky) {
    const int y = row + c.pad - ky;
    if (y < 0 || (c.stride > 1 && y % c.stride) || y / c.stride >= c.out.height) continue;
    for (int kx = 0; kx < c.kernel; ++kx) {
      const int x = phase + c.pad - kx;
      if (c.stride > 1 && x % c.stride) continue;
      taps[count].offset = (static_cast<ptrdiff_t>(y / c.stride - base)
          * (c.out.width + 2 * c.pad) + x / c.stride + c.pad) * kLanes;
      taps[count++].number = ky * c.kernel + kx;
    }
  }
  return count;
}

// Replaces the gradient behind the norm and activation by that before the activation, and adds
// to the two sums, lane by lane.
inline void pass_row(const Norm& norm, int channel, const float* x, float* gradient,
                     size_t pixels, float* sums) {
  const vec scale = spread(norm.scale[channel]), shift = spread(norm.shift[channel]),
            mean = spread(norm.mean[channel]);
  for (int h = 0; h < kParts; ++h) {
    vec total = load(sums + h * kWidth), product = load(sums + kLanes + h * kWidth);
    for (size_t p = 0; p < pixels; ++p) {
      const size_t at = p * kLanes + h * kWidth;
      const vec value = load(x + at);
      const vec passed = pass(load(gradient + at), value * scale + shift, norm.act);
      total += passed;
      product += passed * (value - mean);
      store(gradient + at, passed);
    }
    store(sums + h * kWidth, total);
    store(sums + kLanes + h * kWidth, product);
  }
}

inline double sum_of_lanes(const float* lanes) {
  double total = 0;
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

void input_gradient_part(const Convolution& c, const Norm& norm, const float* x,
                         const float* packed, const float* dz, float* dx, const NormSums& sums,
                         const Part& part) {
  static thread_local Scratch values_of_thread, sums_of_thread, pointers_of_thread;
  const int inputs = c.group_out(), count = part.end - part.begin;
  const int* in_plane = c.in_plane + part.group * c.group_in() + part.begin;
  const int* out_plane = c.out_plane + part.group * inputs;
  const float* weight = packed + (static_cast<size_t>(part.group) * c.group_in() + part.begin)
      * inputs * c.taps();
  const size_t block_in = part.block * c.in.block();
  float* lanes = sums_of_thread.floats(2 * kLanes * count);
  const float** planes = reinterpret_cast<const float**>(
      pointers_of_thread.floats((inputs + count) * sizeof(float*) / sizeof(float)));
  float** out = const_cast<float**>(planes + inputs);
  memset(lanes, 0, 2 * kLanes * count * sizeof(float));

  // Strips of input rows; what they read of the output's gradient is copied between zeros.
  const size_t row_out = static_cast<size_t>(c.out.width) * kLanes;
  const size_t pitch = row_out + 2 * c.pad * kLanes;
  const int strip = !c.pad ? c.in.height : least(
      c.in.height, most(1, static_cast<int>(kStrip * c.stride / (inputs * pitch))));
  const size_t plane = (static_cast<size_t>(strip) / c.stride + c.kernel) * pitch;
  float* values = c.pad ? values_of_thread.floats(inputs * plane) : nullptr;
  const Norm none = {nullptr, nullptr, nullptr, kNone};
  const LaneMask mask(c.batch, part.block);

  Tap taps[9];
  Row row = {planes, inputs, taps, 0, kLanes, c.stride * kLanes, 0};
  int base = 0;
  for (int r = 0; r < c.in.height; ++r) {
    if (r % strip == 0) {
      base = c.pad ? most(0, divide_up(r + c.pad - c.kernel + 1, c.stride)) : 0;
      const int last = least(c.out.height, (least(r + strip, c.in.height) - 1 + c.pad) / c.stride
                             + 1);
      for (int i = 0; i < inputs; ++i) {
        const float* from = dz + part.block * c.out.block() + out_plane[i] * c.out.plane()
            + base * row_out;
        planes[i] = c.pad ? values + i * plane : from;
        if (c.pad && last > base) fetch(none, 0, mask, from, last - base, c.out.width, c.pad,
                                        values + i * plane);
      }
    }
    const size_t at = static_cast<size_t>(r) * c.in.width * kLanes;
    for (int phase = 0; phase < least(c.stride, c.in.width); ++phase) {
      row.length = divide_up(c.in.width - phase, c.stride);
      row.tap_count = gradient_taps(c, r, phase, base, taps);
      for (int i = 0; i < count; ++i)
        out[i] = dx + block_in + in_plane[i] * c.in.plane() + at + phase * kLanes;
      correlate(row, count, weight, c.taps(), out);
    }
    if (!norm.scale) continue;
    for (int i = 0; i < count; ++i) {
      const size_t start = block_in + in_plane[i] * c.in.plane() + at;
      pass_row(norm, in_plane[i], x + start, dx + start, c.in.width, lanes + 2 * kLanes * i);
    }
  }
  if (!norm.scale) return;
  for (int i = 0; i < count; ++i) {
    const size_t at = static_cast<size_t>(part.block) * c.in.channels + in_plane[i];
    sums.gradient[at] = sum_of_lanes(lanes + 2 * kLanes * i);
    sums.product[at] = sum_of_lanes(lanes + 2 * kLanes * i + kLanes);
  }
}

// From the gradient behind a norm's scale and shift to that of its input, in place, and the
// gradients of scale and shift.
void finish_norm(int batch, const Map& map, const Norm& norm, const float* x, float* gradient,
                 const NormSums& sums, const NormGradient& result) {
  const int blocks = divide_up(batch, kLanes);
  const double n = static_cast<double>(batch) * map.height * map.width;
  Array<float> slope(map.channels), constant(map.channels);
  for (int c = 0; c < map.channels; ++c) {
    double total = 0, product = 0;
    for (int b = 0; b < blocks; ++b) {
      total += sums.gradient[b * map.channels + c];
      product += sums.product[b * map.channels + c];
    }
    const double inverse = result.inverse_deviation[c];
    result.beta[c] = static_cast<float>(total);
    result.gamma[c] = static_cast<float>(product * inverse);
    const double from_variance = product * inverse * inverse / n, from_mean = total / n;
    slope[c] = static_cast<float>(-norm.scale[c] * from_variance);
    constant[c] = static_cast<float>(norm.scale[c] * (norm.mean[c] * from_variance - from_mean));
  }
#pragma omp parallel for schedule(dynamic, 8)
  for (int task = 0; task < blocks * map.channels; ++task) {
    const int c = task % map.channels;
    const LaneMask mask(batch, task / map.channels);
    float* to = gradient + task * map.plane();
    const float* from = x + task * map.plane();
    for (int h = 0; h < kParts; ++h) {
      const vec base = mask.part[h] * constant[c], a = spread(norm.scale[c]), b = spread(slope[c]);
      for (size_t at = h * kWidth; at < map.plane(); at += kLanes)
        store(to + at, load(to + at) * a + (load(from + at) * b + base));
    }
  }
}

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_INPUT_GRADIENT_H_
