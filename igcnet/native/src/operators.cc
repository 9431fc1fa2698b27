// Convolutions and batch normalisations as MXNet sees them: shapes, types, which array is what.
#include <math.h>

#include "operators.h"

namespace igcnet {
namespace {

// ---- batch normalisation ---------------------------------------------------------------------

// The five inputs that describe a batch normalisation. MXNet's own BatchNorm does the statistics:
// it reads two points a channel that have the batch's mean and variance, knows whether this is
// training, and updates its running statistics in its backward pass. Here is used what it says.
// The gradient is that of the batch's statistics, as MXNet's where ``backward`` is not called with
// ``train_mode=False``.
enum { kNormalised, kMean, kInverse, kGamma, kBeta, kNormInputs };

struct BatchNorm {
  std::vector<float> scale, shift;
  Norm norm;
  NormGradient gradient;

  // `given`: the first of the five; `results`: where their gradients go, or null.
  BatchNorm(const Attributes& attributes, MXTensor* given, MXTensor* results) {
    const int channels = given[kMean].shape[0];
    const float *mean = given[kMean].data<float>(), *inverse = given[kInverse].data<float>(),
                *gamma = given[kGamma].data<float>(), *beta = given[kBeta].data<float>();
    for (int c = 0; c < channels; ++c) {
      scale.push_back(gamma[c] * inverse[c]);
      shift.push_back(beta[c] - mean[c] * scale[c]);
    }
    norm = {scale.data(), shift.data(), mean, integer(attributes, "act", kNone)};
    gradient = {inverse, nullptr, nullptr};
    if (!results) return;
    for (int i = kNormalised; i <= kInverse; ++i) fill(results + i, 0);
    gradient.gamma = results[kGamma].data<float>();
    gradient.beta = results[kBeta].data<float>();
  }
};

// (1, channels, 2): mean less and plus the deviation.
void write_points(const std::vector<double>& mean, const std::vector<double>& squares, int batch,
                  const Map& map, float* points) {
  const int blocks = (batch + kLanes - 1) / kLanes;
  const double pixels = static_cast<double>(map.height) * map.width;
  for (int c = 0; c < map.channels; ++c) {
    double total = 0, deviations = 0;
    for (int b = 0; b < blocks; ++b) {
      const int images = batch - b * kLanes < kLanes ? batch - b * kLanes : kLanes;
      total += mean[b * map.channels + c] * images;
    }
    const double centre = total / batch;
    for (int b = 0; b < blocks; ++b) {
      const int images = batch - b * kLanes < kLanes ? batch - b * kLanes : kLanes;
      const double away = mean[b * map.channels + c] - centre;
      deviations += squares[b * map.channels + c] + away * away * images * pixels;
    }
    const double deviation = sqrt(deviations / (batch * pixels));
    points[2 * c] = static_cast<float>(centre - deviation);
    points[2 * c + 1] = static_cast<float>(centre + deviation);
  }
}

// ---- convolution -----------------------------------------------------------------------------

// Inputs: x, weight, images, and with `norm` the five of a batch normalisation that comes before.
// Outputs: z, and with `moments` what a batch normalisation behind it needs.
enum { kX, kWeight, kImages, kConvolutionInputs };
enum { kZ, kZPoints, kOnes, kZeros };

MXReturnValue convolution_arity(const Attributes& attributes, int* in, int* out) {
  *in = kConvolutionInputs + (integer(attributes, "norm", 0) ? kNormInputs : 0);
  *out = integer(attributes, "moments", 0) ? 4 : 1;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue convolution_shape(const Attributes& attributes, Shapes* in, Shapes* out) {
  const auto &x = (*in)[kX], &weight = (*in)[kWeight];
  if (x.size() != 5 || weight.size() != 4) return mxnet::ext::MX_SUCCESS;
  const unsigned kernel = weight[2], stride = integer(attributes, "stride", 1);
  const unsigned groups = integer(attributes, "groups", 1), pad = kernel / 2;
  if ((kernel != 1 && kernel != 3) || weight[3] != kernel)
    return wrong("a kernel of 1x1 or 3x3 is needed");
  if (x[4] != kLanes || x[1] % groups || weight[0] % groups || weight[1] != x[1] / groups)
    return wrong("the channels of input and weight do not fit");
  (*out)[kZ] = {x[0], weight[0], (x[2] + 2 * pad - kernel) / stride + 1,
                (x[3] + 2 * pad - kernel) / stride + 1, kLanes};
  if (out->size() > 1) {
    (*out)[kZPoints] = {1, weight[0], 2};
    (*out)[kOnes] = (*out)[kZeros] = {weight[0]};
  }
  return mxnet::ext::MX_SUCCESS;
}

// Where a shuffle with k groups puts each channel: i*(C/k)+j becomes j*k+i.
std::vector<int> shuffled(int channels, int groups) {
  std::vector<int> places(channels);
  for (int c = 0; c < channels; ++c)
    places[c] = c % (channels / groups) * groups + c / (channels / groups);
  return places;
}

struct Planes {
  std::vector<int> in, out;
  Convolution convolution;

  Planes(const Attributes& attributes, const MXTensor& x, const MXTensor& weight,
         const MXTensor& images, const MXTensor& z) {
    const Map from = map_of(x), to = map_of(z);
    // Reading behind a shuffle with k groups is the shuffle with C/k.
    in = shuffled(from.channels, from.channels / integer(attributes, "shuffle_before", 1));
    out = shuffled(to.channels, integer(attributes, "shuffle_after", 1));
    const int kernel = weight.shape[2];
    convolution = {static_cast<int>(images.shape[0]), static_cast<int>(x.shape[0]), from, to,
                   integer(attributes, "groups", 1), kernel, integer(attributes, "stride", 1),
                   kernel / 2, in.data(), out.data()};
  }
};

MXReturnValue convolution_forward(const Attributes& attributes, Tensors* in, Tensors* out,
                                  const OpResource&) {
  const Planes planes(attributes, (*in)[kX], (*in)[kWeight], (*in)[kImages], (*out)[kZ]);
  const Convolution& c = planes.convolution;
  Norm norm = {nullptr, nullptr, nullptr, kNone};
  std::vector<BatchNorm> before;
  if (in->size() > kConvolutionInputs) {
    before.emplace_back(attributes, in->data() + kConvolutionInputs, nullptr);
    norm = before[0].norm;
  }
  use_large_pages((*out)[kZ]);
  const bool moments = out->size() > 1;
  std::vector<double> mean(moments ? c.blocks * c.out.channels : 0), squares(mean.size());
  kernels().convolve(c, norm, (*in)[kX].data<float>(), (*in)[kWeight].data<float>(),
                     (*out)[kZ].data<float>(),
                     {moments ? mean.data() : nullptr, squares.data()});
  if (moments) {
    write_points(mean, squares, c.batch, c.out, (*out)[kZPoints].data<float>());
    fill(&(*out)[kOnes], 1);
    fill(&(*out)[kZeros], 0);
  }
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue convolution_backward(const Attributes& attributes, Tensors* in, Tensors* out,
                                   const OpResource&) {
  const int outputs = integer(attributes, "moments", 0) ? 4 : 1;
  MXTensor* given = in->data() + outputs;
  const Planes planes(attributes, given[kX], given[kWeight], given[kImages], (*in)[kZ]);
  Norm norm = {nullptr, nullptr, nullptr, kNone};
  NormGradient gradient = {nullptr, nullptr, nullptr};
  std::vector<BatchNorm> before;
  if (out->size() > kConvolutionInputs) {
    before.emplace_back(attributes, given + kConvolutionInputs, out->data() + kConvolutionInputs);
    norm = before[0].norm;
    gradient = before[0].gradient;
  }
  use_large_pages((*out)[kX]);
  kernels().convolve_backward(planes.convolution, norm, given[kX].data<float>(),
                              given[kWeight].data<float>(), (*in)[kZ].data<float>(),
                              (*out)[kX].data<float>(), (*out)[kWeight].data<float>(), gradient);
  fill(&(*out)[kImages], 0);
  return mxnet::ext::MX_SUCCESS;
}

// ---- batch normalisation with activation and sum ---------------------------------------------

// Inputs: z, images, the five, and with `residual` what is added, behind a shuffle with `shuffle`
// groups, before the activation.
enum { kNormZ, kNormImages, kFirstOfFive };

MXReturnValue norm_arity(const Attributes& attributes, int* in, int* out) {
  *in = kFirstOfFive + kNormInputs + integer(attributes, "residual", 0);
  *out = 1;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue norm_shape(const Attributes&, Shapes* in, Shapes* out) {
  (*out)[0] = (*in)[kNormZ];
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue norm_forward(const Attributes& attributes, Tensors* in, Tensors* out,
                           const OpResource&) {
  const BatchNorm given(attributes, in->data() + kFirstOfFive, nullptr);
  const size_t last = kFirstOfFive + kNormInputs;
  use_large_pages((*out)[0]);
  const Map map = map_of((*in)[kNormZ]);
  const std::vector<int> planes = shuffled(map.channels, integer(attributes, "shuffle", 1));
  kernels().norm((*in)[kNormImages].shape[0], map, planes.data(), given.norm,
                 (*in)[kNormZ].data<float>(),
                 in->size() > last ? (*in)[last].data<float>() : nullptr,
                 (*out)[0].data<float>());
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue norm_backward(const Attributes& attributes, Tensors* in, Tensors* out,
                            const OpResource&) {
  MXTensor *given = in->data() + 1, *results = out->data();
  const BatchNorm norm(attributes, given + kFirstOfFive, results + kFirstOfFive);
  const bool residual = integer(attributes, "residual", 0);
  const int last = kFirstOfFive + kNormInputs;
  use_large_pages(results[kNormZ]);
  if (residual) use_large_pages(results[last]);
  const Map map = map_of(given[kNormZ]);
  const std::vector<int> planes = shuffled(map.channels, integer(attributes, "shuffle", 1));
  kernels().norm_backward(given[kNormImages].shape[0], map, planes.data(), norm.norm,
                          given[kNormZ].data<float>(),
                          residual ? given[last].data<float>() : nullptr,
                          (*in)[0].data<float>(), results[kNormZ].data<float>(),
                          residual ? results[last].data<float>() : nullptr, norm.gradient);
  fill(results + kNormImages, 0);
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace
}  // namespace igcnet

using namespace igcnet;  // NOLINT: the registration macros want plain names

REGISTER_OP(igcnet_convolution)
    .setParseAttrs(convolution_arity)
    .setInferType(float32_only)
    .setInferShape(convolution_shape)
    .setForward(convolution_forward, "cpu")
    .setBackward(convolution_backward, "cpu");

REGISTER_OP(igcnet_norm)
    .setParseAttrs(norm_arity)
    .setInferType(float32_only)
    .setInferShape(norm_shape)
    .setForward(norm_forward, "cpu")
    .setBackward(norm_backward, "cpu");
