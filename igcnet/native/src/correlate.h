// A row of a convolution, of its output or of its input's gradient, in tiles of registers.
#ifndef IGCNET_CORRELATE_H_
#define IGCNET_CORRELATE_H_

#include "vectors.h"

namespace igcnet {
namespace {

// Channels and pixels of a tile: as many sums as the registers hold beside their operands.
constexpr int kTileChannels = kWidth == 16 ? 8 : kWidth == 8 ? 4 : 2;
constexpr int tile_pixels(int channels) {
  return kWidth < 16 ? 1 : channels == 8 ? 2 : channels == 4 ? 4 : 8;
}

// What one tap of the kernel reads: pixel t of the row reads `offset + t*step` of a plane.
struct Tap {
  ptrdiff_t offset;
  int number;  // which one of the kernel*kernel
};

struct Row {
  const float* const* planes;  // of the channels that are read
  int inputs;
  const Tap* taps;
  int tap_count;
  ptrdiff_t step;      // between the pixels that are read
  ptrdiff_t out_step;  // between those that are written
  int length;
};

// The widest tile that fits into `left` channels; weights are packed in the same order.
inline int tile_channels(int left) {
  int width = kTileChannels;
  while (width > left) width /= 2;
  return width;
}

template <int CO, int P>
inline void tile(const Row& row, const float* weight, float* const* out, int t) {
  vec sums[CO][P * kParts] = {};
  for (int k = 0; k < row.tap_count; ++k) {
    const ptrdiff_t start = row.taps[k].offset + t * row.step;
    const float* w = weight + static_cast<size_t>(row.taps[k].number) * row.inputs * CO;
    for (int i = 0; i < row.inputs; ++i, w += CO) {
      const float* from = row.planes[i] + start;
      vec x[P * kParts];
      for (int p = 0; p < P; ++p)
        for (int h = 0; h < kParts; ++h) x[p * kParts + h] = load(from + p * row.step + h * kWidth);
      for (int c = 0; c < CO; ++c)
        for (int p = 0; p < P * kParts; ++p) sums[c][p] += x[p] * w[c];
    }
  }
  for (int c = 0; c < CO; ++c)
    for (int p = 0; p < P; ++p)
      for (int h = 0; h < kParts; ++h)
        store(out[c] + (t + p) * row.out_step + h * kWidth, sums[c][p * kParts + h]);
}

template <int CO>
void tiles(const Row& row, const float* weight, float* const* out) {
  constexpr int P = tile_pixels(CO);
  int t = 0;
  for (; t + P <= row.length; t += P) tile<CO, P>(row, weight, out, t);
  for (; t < row.length; ++t) tile<CO, 1>(row, weight, out, t);
}

// All `outputs` channels of a row; `weight` as `pack` lays it out for them.
inline void correlate(const Row& row, int outputs, const float* weight, int taps,
                      float* const* out) {
  for (int c = 0; c < outputs;) {
    const int width = tile_channels(outputs - c);
    const float* w = weight + static_cast<size_t>(c) * row.inputs * taps;
    switch (width) {
      case 8: tiles<least(8, kTileChannels)>(row, w, out + c); break;
      case 4: tiles<least(4, kTileChannels)>(row, w, out + c); break;
      case 2: tiles<2>(row, w, out + c); break;
      default: tiles<1>(row, w, out + c);
    }
    c += width;
  }
}

// Weights in the order of use: group, tile of outputs, tap, input, output of the tile. The
// outputs are the convolution's output channels, or for the gradient its input channels.
inline void pack(const Convolution& c, const float* weight, bool gradient, float* packed) {
  const int co = c.group_out(), ci = c.group_in(), taps = c.taps();
  const int outputs = gradient ? ci : co, inputs = gradient ? co : ci;
  for (int g = 0; g < c.groups; ++g) {
    const float* from = weight + static_cast<size_t>(g) * co * ci * taps;
    for (int o = 0; o < outputs;) {
      const int width = tile_channels(outputs - o);
      for (int tap = 0; tap < taps; ++tap)
        for (int i = 0; i < inputs; ++i)
          for (int k = 0; k < width; ++k) {
            const size_t at = gradient ? static_cast<size_t>(i) * ci + o + k
                                       : static_cast<size_t>(o + k) * ci + i;
            *packed++ = from[at * taps + tap];
          }
      o += width;
    }
  }
}

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_CORRELATE_H_
