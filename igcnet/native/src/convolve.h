// The convolution's forward pass.
#ifndef IGCNET_CONVOLVE_H_
#define IGCNET_CONVOLVE_H_

#include "correlate.h"

namespace igcnet {
namespace {

constexpr int kChunk = 64;             // channels of a task where the groups alone are too few
constexpr int kEnoughTasks = 16;       // a rule of the shapes, not of the threads
constexpr size_t kStrip = 64 * 1024;   // floats of a strip of input that is copied

// A 1x1 convolution of stride 1 does not care where rows end: rows of up to 128 pixels.
inline Convolution with_long_rows(Convolution c) {
  if (c.kernel != 1 || c.stride != 1) return c;
  int rows = 1;
  for (int d = 1; d <= c.in.height; ++d)
    if (c.in.height % d == 0 && d * c.in.width <= 128) rows = d;
  c.in.height = c.out.height = c.in.height / rows;
  c.in.width = c.out.width = c.in.width * rows;
  return c;
}

// Rows of a plane as the norm makes them, or as they are where the norm has no scale. Each is
// copied between `pad` pixels of zeros, so that a row of the kernel can be read anywhere.
inline void fetch(const Norm& norm, int channel, const LaneMask& mask, const float* from, int rows,
                  int width, int pad, float* to) {
  vec scale = {}, shift[kParts] = {};
  if (norm.scale) {
    scale = spread(norm.scale[channel]);
    for (int h = 0; h < kParts; ++h) shift[h] = mask.part[h] * norm.shift[channel];
  }
  const size_t row = static_cast<size_t>(width) * kLanes, edge = static_cast<size_t>(pad) * kLanes;
  for (int r = 0; r < rows; ++r, from += row, to += row + 2 * edge) {
    memset(to, 0, edge * sizeof(float));
    memset(to + edge + row, 0, edge * sizeof(float));
    if (!norm.scale) {
      memcpy(to + edge, from, row * sizeof(float));
      continue;
    }
    for (size_t at = 0; at < row; at += kLanes)
      for (int h = 0; h < kParts; ++h) {
        const vec value = load(from + at + h * kWidth) * scale + shift[h];
        store(to + edge + at + h * kWidth, activate(value, norm.act));
      }
  }
}

// Sums of a plane's values less their first one, lane by lane.
struct Shifted {
  float first[kLanes], sum[kLanes], squares[kLanes];
  void add(const float* from, size_t pixels, bool begin) {
    if (begin) {
      memcpy(first, from, sizeof(first));
      memset(sum, 0, sizeof(sum));
      memset(squares, 0, sizeof(squares));
    }
    for (int h = 0; h < kParts; ++h) {
      const int lane = h * kWidth;
      const vec origin = load(first + lane);
      vec s = load(sum + lane), q = load(squares + lane), s2 = {}, q2 = {};
      size_t p = 0;
      for (; p + 2 <= pixels; p += 2) {
        const vec d = load(from + p * kLanes + lane) - origin;
        const vec e = load(from + (p + 1) * kLanes + lane) - origin;
        s += d, q += d * d, s2 += e, q2 += e * e;
      }
      for (; p < pixels; ++p) {
        const vec d = load(from + p * kLanes + lane) - origin;
        s += d, q += d * d;
      }
      store(sum + lane, s + s2);
      store(squares + lane, q + q2);
    }
  }
  // Mean and squared deviations of the first `images` lanes with `pixels` values each.
  void finish(int images, size_t pixels, double* mean, double* deviations) const {
    const double n = static_cast<double>(pixels);
    double total = 0, inside = 0, between = 0;
    for (int i = 0; i < images; ++i) {
      total += first[i] + sum[i] / n;
      inside += squares[i] - static_cast<double>(sum[i]) * sum[i] / n;
    }
    *mean = total / images;
    for (int i = 0; i < images; ++i) {
      const double d = first[i] + sum[i] / n - *mean;
      between += d * d;
    }
    *deviations = inside + n * between;
  }
};

// The taps of output row `row`; the planes that are read begin with row `base`.
inline int taps_of(const Convolution& c, int row, int base, Tap* taps) {
  int count = 0;
  for (int ky = 0; ky < c.kernel; ++ky) {
    const int from = row * c.stride + ky - c.pad;
    if (from < 0 || from >= c.in.height) continue;
    for (int kx = 0; kx < c.kernel; ++kx, ++count) {
      taps[count].offset = (static_cast<ptrdiff_t>(from - base) * (c.in.width + 2 * c.pad) + kx)
          * kLanes;
      taps[count].number = ky * c.kernel + kx;
    }
  }
  return count;
}

struct Part {  // of the work: a block of images, a group, some of its channels
  int block, group, begin, end;
  Part(int task, int groups, int chunks, int channels) {
    const int chunk = task % chunks;
    group = task / chunks % groups;
    block = task / chunks / groups;
    begin = chunk * kChunk;
    end = chunks == 1 ? channels : least(channels, begin + kChunk);
  }
};

inline int chunks_of(const Convolution& c, int channels) {
  return c.blocks * c.groups >= kEnoughTasks ? 1 : divide_up(channels, kChunk);
}

void convolve_part(const Convolution& c, const Norm& norm, const float* x, const float* packed,
                   float* z, const Moments& moments, const Part& part) {
  static thread_local Scratch values_of_thread, sums_of_thread, pointers_of_thread;
  const int inputs = c.group_in(), count = part.end - part.begin;
  const int* in_plane = c.in_plane + part.group * inputs;
  const int* out_plane = c.out_plane + part.group * c.group_out() + part.begin;
  const float* weight = packed + (static_cast<size_t>(part.group) * c.group_out() + part.begin)
      * inputs * c.taps();
  const float* block = x + part.block * c.in.block();
  const LaneMask mask(c.batch, part.block);
  const size_t row_in = static_cast<size_t>(c.in.width) * kLanes;

  const bool copied = norm.scale || c.pad;
  const size_t pitch = row_in + 2 * c.pad * kLanes;
  const int strip = !copied ? c.out.height : least(
      c.out.height, most(1, static_cast<int>(kStrip / (inputs * pitch * c.stride))));
  const size_t plane = ((strip - 1) * c.stride + c.kernel) * pitch;
  float* values = copied ? values_of_thread.floats(inputs * plane) : nullptr;
  Shifted* sums = reinterpret_cast<Shifted*>(
      sums_of_thread.floats(count * sizeof(Shifted) / sizeof(float)));
  const float** planes = reinterpret_cast<const float**>(
      pointers_of_thread.floats((inputs + count) * sizeof(float*) / sizeof(float)));
  float** out = const_cast<float**>(planes + inputs);

  Tap taps[9];
  Row row = {planes, inputs, taps, 0, c.stride * kLanes, kLanes, c.out.width};
  for (int begin = 0; begin < c.out.height; begin += strip) {
    const int end = least(begin + strip, c.out.height);
    const int base = copied ? most(0, begin * c.stride - c.pad) : 0;
    const int last = least(c.in.height, (end - 1) * c.stride + c.kernel - c.pad);
    for (int i = 0; i < inputs; ++i) {
      const float* from = block + in_plane[i] * c.in.plane() + base * row_in;
      planes[i] = copied ? values + i * plane : from;
      if (copied) fetch(norm, in_plane[i], mask, from, last - base, c.in.width, c.pad,
                        values + i * plane);
    }
    for (int r = begin; r < end; ++r) {
      row.tap_count = taps_of(c, r, base, taps);
      for (int o = 0; o < count; ++o) {
        out[o] = z + part.block * c.out.block() + out_plane[o] * c.out.plane()
            + static_cast<size_t>(r) * c.out.width * kLanes;
      }
      correlate(row, count, weight, c.taps(), out);
      if (moments.mean)
        for (int o = 0; o < count; ++o) sums[o].add(out[o], c.out.width, r == 0);
    }
  }
  if (!moments.mean) return;
  for (int o = 0; o < count; ++o) {
    const size_t at = static_cast<size_t>(part.block) * c.out.channels + out_plane[o];
    sums[o].finish(images_in(c.batch, part.block), c.out.plane() / kLanes, moments.mean + at,
                   moments.squares + at);
  }
}

void convolve(const Convolution& given, const Norm& norm, const float* x, const float* weight,
              float* z, const Moments& moments) {
  const Convolution c = with_long_rows(given);
  Array<float> packed(static_cast<size_t>(c.out.channels) * c.group_in() * c.taps());
  pack(c, weight, false, packed);
  const int chunks = chunks_of(c, c.group_out());
#pragma omp parallel for schedule(dynamic)
  for (int task = 0; task < c.blocks * c.groups * chunks; ++task)
    convolve_part(c, norm, x, packed, z, moments, Part(task, c.groups, chunks, c.group_out()));
}

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_CONVOLVE_H_
