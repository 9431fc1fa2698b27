// What the operators ask of the kernels, and the three builds of the kernels for x86.
//
// Lane layout: images go in blocks of 16, so that the 16 floats that stand side by side belong to
// one channel and pixel of 16 images: (blocks, channels, height, width, 16). Every pixel of every
// channel is whole vectors, whatever the number of channels in a group, and moving channels is
// reading another plane. The lanes that the last block has too many hold zeros.
#ifndef IGCNET_KERNELS_H_
#define IGCNET_KERNELS_H_

#include <stddef.h>

namespace igcnet {

constexpr int kLanes = 16;

enum Activation { kNone = 0, kRelu = 1, kRelu6 = 2 };

struct Map {
  int channels, height, width;
  size_t plane() const { return static_cast<size_t>(height) * width * kLanes; }
  size_t block() const { return channels * plane(); }
};

// A grouped convolution between permutations of planes: input channel i of the convolution is
// plane in_plane[i], its output channel o is stored as plane out_plane[o].
struct Convolution {
  int batch, blocks;
  Map in, out;
  int groups, kernel, stride, pad;
  const int* in_plane;
  const int* out_plane;
  int group_in() const { return in.channels / groups; }
  int group_out() const { return out.channels / groups; }
  int taps() const { return kernel * kernel; }
};

// y = act(scale * x + shift) for each plane; scale is null where the input is taken as it is.
struct Norm {
  const float *scale, *shift, *mean;
  int act;
};

// For the gradients of scale and shift, one number for each channel.
struct NormGradient {
  const float* inverse_deviation;
  float *gamma, *beta;
};

// Mean and sum of squared deviations of each plane: lists of blocks * channels.
struct Moments {
  double *mean, *squares;
};

struct Kernels {
  const char* name;
  // z: output. moments.mean may be null.
  void (*convolve)(const Convolution&, const Norm&, const float* x, const float* weight, float* z,
                   const Moments& moments);
  // Writes dx (gradient of the input before its norm), dweight and, with a norm, its gradients.
  void (*convolve_backward)(const Convolution&, const Norm&, const float* x, const float* weight,
                            const float* dz, float* dx, float* dweight, const NormGradient&);
  // y = act(scale * z + shift + residual); residual may be null. Plane c of z becomes plane
  // out_plane[c] of y and of the residual.
  void (*norm)(int batch, const Map&, const int* out_plane, const Norm&, const float* z,
               const float* residual, float* y);
  void (*norm_backward)(int batch, const Map&, const int* out_plane, const Norm&, const float* z,
                        const float* residual, const float* dy, float* dz, float* dresidual,
                        const NormGradient&);
  // y = x * sigmoid(gate)
  void (*gate)(size_t count, const float* x, const float* gate, float* y);
  void (*gate_backward)(size_t count, const float* x, const float* gate, const float* dy,
                        float* dx, float* dgate);
  // (batch, channels, pixels) to lanes and back.
  void (*to_lanes)(int batch, const Map&, const float* x, float* lanes);
  void (*from_lanes)(int batch, const Map&, const float* lanes, float* x);
  // Multiply-adds of one thread that keeps to its registers.
  double (*multiply_adds)(long rounds);
};

extern const Kernels kBaseline;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace igcnet
#endif  // IGCNET_KERNELS_H_
