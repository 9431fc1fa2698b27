// What the files of operators share.
#ifndef IGCNET_OPERATORS_H_
#define IGCNET_OPERATORS_H_

#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <string>
#include <unordered_map>
#include <vector>

#include "kernels.h"
#include "lib_api.h"

namespace igcnet {

using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;
using Attributes = std::unordered_map<std::string, std::string>;
using Shapes = std::vector<std::vector<unsigned int>>;
using Tensors = std::vector<MXTensor>;

// The kernels for this processor.
const Kernels& kernels();

inline int integer(const Attributes& attributes, const char* name, int otherwise) {
  const auto found = attributes.find(name);
  return found == attributes.end() ? otherwise : std::stoi(found->second);
}

inline MXReturnValue wrong(const char* what) {
  MX_ERROR_MSG << "igcnet: " << what;
  return mxnet::ext::MX_FAIL;
}

inline MXReturnValue float32_only(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  for (int& type : *in) {
    if (type != -1 && type != mxnet::ext::kFloat32) return wrong("the arrays must be float32");
    type = mxnet::ext::kFloat32;
  }
  for (int& type : *out) type = mxnet::ext::kFloat32;
  return mxnet::ext::MX_SUCCESS;
}

// Asks for pages of megabytes where a large array is about to be written: planes lie so far apart
// that with small ones the processor looks up addresses all the time.
inline void use_large_pages(const MXTensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t start = reinterpret_cast<uintptr_t>(tensor.data_ptr);
  const uintptr_t first = (start + 4095) / 4096 * 4096;
  const uintptr_t end = (start + tensor.size() * sizeof(float)) / 4096 * 4096;
  if (end > first + kPage) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

inline void fill(MXTensor* tensor, float value) {
  float* to = tensor->data<float>();
  for (int64_t i = 0; i < tensor->size(); ++i) to[i] = value;
}

// Five dimensions: (blocks, channels, height, width, 16).
inline Map map_of(const MXTensor& lanes) {
  return {static_cast<int>(lanes.shape[1]), static_cast<int>(lanes.shape[2]),
          static_cast<int>(lanes.shape[3])};
}

}  // namespace igcnet
#endif  // IGCNET_OPERATORS_H_
