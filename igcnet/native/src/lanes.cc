// The way into lanes and back, and what is done to single numbers there.
#include "operators.h"

namespace igcnet {
namespace {

// ---- into lanes and back ---------------------------------------------------------------------

// x -> lanes, and one number for each image, by which the other operators know how many there are.
MXReturnValue to_lanes_arity(const Attributes&, int* in, int* out) {
  *in = 1, *out = 2;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue to_lanes_shape(const Attributes&, Shapes* in, Shapes* out) {
  const auto& x = (*in)[0];
  if (x.empty()) return mxnet::ext::MX_SUCCESS;
  if (x.size() != 4) return wrong("an array of four dimensions is needed");
  (*out)[0] = {(x[0] + kLanes - 1) / kLanes, x[1], x[2], x[3], kLanes};
  (*out)[1] = {x[0]};
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue to_lanes_forward(const Attributes&, Tensors* in, Tensors* out, const OpResource&) {
  use_large_pages((*out)[0]);
  kernels().to_lanes((*in)[0].shape[0], map_of((*out)[0]), (*in)[0].data<float>(),
                     (*out)[0].data<float>());
  fill(&(*out)[1], 0);
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue to_lanes_backward(const Attributes&, Tensors* in, Tensors* out,
                                const OpResource&) {
  kernels().from_lanes((*out)[0].shape[0], map_of((*in)[0]), (*in)[0].data<float>(),
                       (*out)[0].data<float>());
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue from_lanes_arity(const Attributes&, int* in, int* out) {
  *in = 2, *out = 1;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue from_lanes_shape(const Attributes&, Shapes* in, Shapes* out) {
  const auto &lanes = (*in)[0], &images = (*in)[1];
  if (lanes.size() == 5 && images.size() == 1)
    (*out)[0] = {images[0], lanes[1], lanes[2], lanes[3]};
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue from_lanes_forward(const Attributes&, Tensors* in, Tensors* out,
                                 const OpResource&) {
  kernels().from_lanes((*out)[0].shape[0], map_of((*in)[0]), (*in)[0].data<float>(),
                       (*out)[0].data<float>());
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue from_lanes_backward(const Attributes&, Tensors* in, Tensors* out,
                                  const OpResource&) {
  kernels().to_lanes((*in)[0].shape[0], map_of((*out)[0]), (*in)[0].data<float>(),
                     (*out)[0].data<float>());
  fill(&(*out)[1], 0);
  return mxnet::ext::MX_SUCCESS;
}

// ---- the gate of MENet ------------------------------------------------------------------------

// x, gate -> x * sigmoid(gate), both in lanes.
MXReturnValue gate_arity(const Attributes&, int* in, int* out) {
  *in = 2, *out = 1;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue gate_shape(const Attributes&, Shapes* in, Shapes* out) {
  const auto& x = (*in)[0];
  if (x.empty() || (*in)[1].empty()) return mxnet::ext::MX_SUCCESS;
  if (x != (*in)[1] || x.back() != kLanes) return wrong("an array in lanes and its gate differ");
  (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue gate_forward(const Attributes&, Tensors* in, Tensors* out, const OpResource&) {
  use_large_pages((*out)[0]);
  kernels().gate((*out)[0].size(), (*in)[0].data<float>(), (*in)[1].data<float>(),
                 (*out)[0].data<float>());
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue gate_backward(const Attributes&, Tensors* in, Tensors* out, const OpResource&) {
  for (const MXTensor& result : *out) use_large_pages(result);
  kernels().gate_backward((*in)[0].size(), (*in)[1].data<float>(), (*in)[2].data<float>(),
                          (*in)[0].data<float>(), (*out)[0].data<float>(),
                          (*out)[1].data<float>());
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace
}  // namespace igcnet

using namespace igcnet;  // NOLINT: the registration macros want plain names

REGISTER_OP(igcnet_to_lanes)
    .setParseAttrs(to_lanes_arity)
    .setInferType(float32_only)
    .setInferShape(to_lanes_shape)
    .setForward(to_lanes_forward, "cpu")
    .setBackward(to_lanes_backward, "cpu");

REGISTER_OP(igcnet_from_lanes)
    .setParseAttrs(from_lanes_arity)
    .setInferType(float32_only)
    .setInferShape(from_lanes_shape)
    .setForward(from_lanes_forward, "cpu")
    .setBackward(from_lanes_backward, "cpu");

REGISTER_OP(igcnet_gate)
    .setParseAttrs(gate_arity)
    .setInferType(float32_only)
    .setInferShape(gate_shape)
    .setForward(gate_forward, "cpu")
    .setBackward(gate_backward, "cpu");
