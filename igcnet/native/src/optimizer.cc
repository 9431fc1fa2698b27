// Nesterov's rule for all parameters of a network in one operator.
#include <algorithm>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib_api.h"

namespace {

using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using Attributes = std::unordered_map<std::string, std::string>;
using Shapes = std::vector<std::vector<unsigned int>>;

constexpr int64_t kPiece = 1 << 14;  // numbers of a task

int count_of(const Attributes& attributes) { return std::stoi(attributes.at("count")); }

// Inputs: the weights, then the momenta, then the gradients. Outputs: the new weights. The momenta
// are changed in place, which only arrays in the plain layout can be: of others MXNet gives its
// operators a copy, and inference leaves weights in layouts of its own.
MXReturnValue arity(const Attributes& attributes, int* in, int* out) {
  const int count = count_of(attributes);
  *in = 3 * count, *out = count;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  for (int& type : *in) {
    if (type != mxnet::ext::kFloat32) {
      MX_ERROR_MSG << "igcnet: the parameters must be float32";
      return mxnet::ext::MX_FAIL;
    }
  }
  std::fill(out->begin(), out->end(), mxnet::ext::kFloat32);
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue shapes(const Attributes& attributes, Shapes* in, Shapes* out) {
  const int count = count_of(attributes);
  for (int i = 0; i < count; ++i) {
    if ((*in)[i] != (*in)[count + i] || (*in)[i] != (*in)[2 * count + i]) {
      MX_ERROR_MSG << "igcnet: a weight, its momentum and its gradient differ in shape";
      return mxnet::ext::MX_FAIL;
    }
    (*out)[i] = (*in)[i];
  }
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue mutated(const Attributes& attributes, std::vector<int>* indices) {
  const int count = count_of(attributes);
  for (int i = count; i < 2 * count; ++i) indices->push_back(i);
  return mxnet::ext::MX_SUCCESS;
}

std::vector<float> numbers(const std::string& text) {
  std::istringstream stream(text);
  std::vector<float> found;
  for (std::string word; stream >> word;) found.push_back(static_cast<float>(std::stod(word)));
  return found;
}

MXReturnValue update(const Attributes& attributes, std::vector<MXTensor>* in,
                     std::vector<MXTensor>* out, const mxnet::ext::OpResource&) {
  struct Piece {
    float *changed, *moment;
    const float *weight, *gradient;
    int64_t size;
    float rate, decay;
  };
  const int count = count_of(attributes);
  const std::vector<float> rates = numbers(attributes.at("rates"));
  const std::vector<float> decays = numbers(attributes.at("decays"));
  const float momentum = numbers(attributes.at("momentum"))[0];
  const float scale = numbers(attributes.at("scale"))[0];
  const bool clipped = attributes.at("clip") != "none";
  const float clip = clipped ? numbers(attributes.at("clip"))[0] : 0;
  std::vector<Piece> pieces;
  for (int i = 0; i < count; ++i) {
    // The shapes of inputs that MXNet has brought into the plain layout cannot be relied upon.
    const int64_t size = (*out)[i].size();
    for (int64_t start = 0; start < size; start += kPiece)
      pieces.push_back({(*out)[i].data<float>() + start, (*in)[count + i].data<float>() + start,
                        (*in)[i].data<float>() + start, (*in)[2 * count + i].data<float>() + start,
                        std::min(kPiece, size - start), rates.at(i), decays.at(i)});
  }
#pragma omp parallel for schedule(dynamic, 8)
  for (size_t k = 0; k < pieces.size(); ++k) {
    const Piece& p = pieces[k];
    for (int64_t i = 0; i < p.size; ++i) {
      float g = p.gradient[i] * scale;
      if (clipped) {
        g = g > clip ? clip : g;
        g = g < -clip ? -clip : g;
      }
      g += p.decay * p.weight[i];
      const float m = p.moment[i] * momentum + g;
      p.moment[i] = m;
      p.changed[i] = p.weight[i] - (g + momentum * m) * p.rate;
    }
  }
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(igcnet_nesterov)
    .setParseAttrs(arity)
    .setInferType(types)
    .setInferShape(shapes)
    .setMutateInputs(mutated)
    .setForward(update, "cpu");
