// The gradient of a convolution's weight.
#ifndef IGCNET_WEIGHT_GRADIENT_H_
#define IGCNET_WEIGHT_GRADIENT_H_

#include "convolve.h"

namespace igcnet {
namespace {

constexpr int kSide = 32;             // channels of a task, on either side
constexpr int kPixels = 160;          // pixels, of one block or several, that are read together
constexpr int kWeightTasks = 32;      // below so many, the blocks become tasks of their own

// Rows of some blocks: the output's gradient and the input as the convolution saw it.
struct Piece {
  const float* const* dz;  // planes of the first block
  const float* const* x;
  size_t dz_block, x_block;  // from block to block
  int blocks, begin, end;    // rows of the output
  int base;                  // the first row of the input that is there
};

// Sums over a piece for CO x CI pairs of channels and one row of the kernel.
template <int K, int CO, int CI>
void piece_sums(const Convolution& c, const Piece& piece, int ky, int o, int i, float* result,
                ptrdiff_t stride_o) {
  vec sums[CO][CI][K] = {};
  const ptrdiff_t step = static_cast<ptrdiff_t>(c.stride) * kLanes;
  for (int b = 0; b < piece.blocks; ++b)
    for (int row = piece.begin; row < piece.end; ++row) {
      const int y = row * c.stride + ky - c.pad;
      if (y < 0 || y >= c.in.height) continue;
      const float *from[CI], *grad[CO];
      for (int k = 0; k < CI; ++k)
        from[k] = piece.x[i + k] + b * piece.x_block
            + static_cast<ptrdiff_t>(y - piece.base) * (c.in.width + 2 * c.pad) * kLanes;
      for (int k = 0; k < CO; ++k)
        grad[k] = piece.dz[o + k] + b * piece.dz_block
            + static_cast<ptrdiff_t>(row) * c.out.width * kLanes;
      for (int t = 0; t < c.out.width; ++t)
        for (int h = 0; h < kLanes; h += kWidth) {
          vec g[CO];
          for (int k = 0; k < CO; ++k) g[k] = load(grad[k] + t * kLanes + h);
          for (int j = 0; j < CI; ++j)
            for (int kx = 0; kx < K; ++kx) {
              const vec x = load(from[j] + t * step + kx * kLanes + h);
              for (int k = 0; k < CO; ++k) sums[k][j][kx] += g[k] * x;
            }
        }
    }
  for (int k = 0; k < CO; ++k)
    for (int j = 0; j < CI; ++j)
      for (int kx = 0; kx < K; ++kx)
        result[k * stride_o + (j * K + ky) * K + kx] += sum(sums[k][j][kx]);
}

// As wide as the registers allow: 24 sums of 32 registers, or 12 of 16.
template <int K>
int widest_inputs(int left) {
  if (K == 3) return left >= 2 ? 2 : 1;
  if (kWidth == 16 && left >= 6) return 6;
  return left >= 3 ? 3 : left;
}
template <int K>
int widest_outputs(int left) {
  const int most_outputs = K == 3 && kWidth < 16 ? 2 : 4;
  return left >= most_outputs ? most_outputs : left >= 2 ? 2 : 1;
}

template <int K, int CO>
void piece_inputs(const Convolution& c, const Piece& piece, int o, int inputs, float* result,
                  ptrdiff_t stride_o) {
  for (int i = 0; i < inputs;) {
    const int width = widest_inputs<K>(inputs - i);
    for (int ky = 0; ky < K; ++ky) {
      float* to = result + i * K * K;
      switch (width) {
        case 6: piece_sums<K, CO, K == 1 ? 6 : 1>(c, piece, ky, o, i, to, stride_o); break;
        case 3: piece_sums<K, CO, K == 1 ? 3 : 1>(c, piece, ky, o, i, to, stride_o); break;
        case 2: piece_sums<K, CO, 2>(c, piece, ky, o, i, to, stride_o); break;
        default: piece_sums<K, CO, 1>(c, piece, ky, o, i, to, stride_o);
      }
    }
    i += width;
  }
}

template <int K>
void piece_outputs(const Convolution& c, const Piece& piece, int outputs, int inputs,
                   float* result, ptrdiff_t stride_o) {
  for (int o = 0; o < outputs;) {
    const int width = widest_outputs<K>(outputs - o);
    float* to = result + o * stride_o;
    switch (width) {
      case 4: piece_inputs<K, 4>(c, piece, o, inputs, to, stride_o); break;
      case 2: piece_inputs<K, 2>(c, piece, o, inputs, to, stride_o); break;
      default: piece_inputs<K, 1>(c, piece, o, inputs, to, stride_o);
    }
    o += width;
  }
}

// One task: channels o0..o1 x i0..i1 of a group over blocks b0..b1; adds into `result`, which
// has the shape of the whole weight.
void weight_gradient_part(const Convolution& c, const Norm& norm, const float* x, const float* dz,
                          float* result, int group, int o0, int o1, int i0, int i1, int b0,
                          int b1) {
  static thread_local Scratch values_of_thread;
  const int inputs = i1 - i0;
  const int pixels = c.out.height * c.out.width;
  const int blocks = pixels >= kPixels ? 1 : most(1, kPixels / pixels);
  const int rows = pixels >= kPixels ? most(1, kPixels / c.out.width) : c.out.height;
  const size_t row_in = static_cast<size_t>(c.in.width) * kLanes;
  const bool copied = norm.scale || c.pad;
  const size_t plane = (static_cast<size_t>(rows - 1) * c.stride + c.kernel)
      * (row_in + 2 * c.pad * kLanes);
  const float *planes_dz[kSide], *planes_x[kSide];
  float* values = copied ? values_of_thread.floats(blocks * inputs * plane) : nullptr;
  const ptrdiff_t stride_o = static_cast<ptrdiff_t>(c.group_in()) * c.taps();
  float* to = result + (static_cast<size_t>(group) * c.group_out() + o0) * stride_o
      + i0 * c.taps();

  Piece piece = {planes_dz, planes_x, c.out.block(), c.in.block(), 0, 0, 0, 0};
  for (int b = b0; b < b1; b += blocks) {
    piece.blocks = least(blocks, b1 - b);
    for (int o = o0; o < o1; ++o)
      planes_dz[o - o0] = dz + b * c.out.block()
          + c.out_plane[group * c.group_out() + o] * c.out.plane();
    for (int begin = 0; begin < c.out.height; begin += rows) {
      piece.begin = begin;
      piece.end = least(begin + rows, c.out.height);
      const int from = most(0, begin * c.stride - c.pad);
      const int until = least(c.in.height, (piece.end - 1) * c.stride + c.kernel - c.pad);
      piece.base = copied ? from : 0;
      piece.x_block = copied ? inputs * plane : c.in.block();
      for (int i = 0; i < inputs; ++i) {
        const int channel = c.in_plane[group * c.group_in() + i0 + i];
        const float* source = x + b * c.in.block() + channel * c.in.plane();
        planes_x[i] = copied ? values + i * plane : source;
        for (int k = 0; copied && k < piece.blocks; ++k)
          fetch(norm, channel, LaneMask(c.batch, b + k), source + k * c.in.block() + from * row_in,
                until - from, c.in.width, c.pad,
                values + (static_cast<size_t>(k) * inputs + i) * plane);
      }
      if (c.kernel == 3) piece_outputs<3>(c, piece, o1 - o0, inputs, to, stride_o);
      else piece_outputs<1>(c, piece, o1 - o0, inputs, to, stride_o);
    }
  }
}

// How the work is shared out, by shape alone. A split is a block of images with sums of its own.
struct WeightTasks {
  int sides_o, sides_i, tiles, splits, blocks;
  size_t count;
  explicit WeightTasks(const Convolution& c)
      : sides_o(divide_up(c.group_out(), kSide)), sides_i(divide_up(c.group_in(), kSide)),
        tiles(c.groups * sides_o * sides_i), blocks(c.blocks),
        count(static_cast<size_t>(c.out.channels) * c.group_in() * c.taps()) {
    // Large maps leave the caches from block to block anyway.
    const bool large = c.out.height * c.out.width >= kPixels && sides_o * sides_i == 1;
    splits = large || tiles < kWeightTasks ? blocks : 1;
  }
};

inline void weight_task(const Convolution& c, const WeightTasks& tasks, const Norm& norm,
                        const float* x, const float* dz, float* parts, int task) {
  const int split = task / tasks.tiles, tile = task % tasks.tiles;
  const int o0 = tile % tasks.sides_o * kSide;
  const int i0 = tile / tasks.sides_o % tasks.sides_i * kSide;
  weight_gradient_part(c, norm, x, dz, parts + split * tasks.count,
                       tile / (tasks.sides_o * tasks.sides_i), o0,
                       least(o0 + kSide, c.group_out()), i0, least(i0 + kSide, c.group_in()),
                       tasks.splits == 1 ? 0 : split,
                       tasks.splits == 1 ? tasks.blocks : split + 1);
}

inline void add_splits(const WeightTasks& tasks, const float* parts, float* dweight) {
  for (size_t k = 0; k < tasks.count; ++k) {
    float total = parts[k];
    for (int s = 1; s < tasks.splits; ++s) total += parts[s * tasks.count + k];
    dweight[k] = total;
  }
}

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_WEIGHT_GRADIENT_H_
