// Vectors of the width that this build is for, and memory for one thread.
//
// Nothing here or in the files that include it uses the standard library's templates: the linker
// keeps one instance of a template for all builds, and that one might be for another processor.
#ifndef IGCNET_VECTORS_H_
#define IGCNET_VECTORS_H_

#include <stdlib.h>
#include <string.h>

#include "kernels.h"

namespace igcnet {
namespace {

// Floats in a vector; the build decides.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;  // vectors in a pixel

typedef float vec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

inline vec load(const float* from) { return *reinterpret_cast<const vec*>(from); }
inline void store(float* to, vec value) { *reinterpret_cast<vec*>(to) = value; }
inline vec spread(float value) { return value - vec{}; }

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

inline float sum(vec value) {
  float part[kWidth];
  store(part, value);
  quad total = *reinterpret_cast<const quad*>(part);
  for (int i = 4; i < kWidth; i += 4) total += *reinterpret_cast<const quad*>(part + i);
  return (total[0] + total[1]) + (total[2] + total[3]);
}

inline vec activate(vec value, int act) {
  const vec zero = {}, six = spread(6.0f);
  if (act != kNone) value = value > zero ? value : zero;
  if (act == kRelu6) value = value < six ? value : six;
  return value;
}

// The gradient that passes an activation whose input was `before`, as MXNet's Activation and clip.
inline vec pass(vec gradient, vec before, int act) {
  const vec zero = {}, six = spread(6.0f);
  if (act == kRelu) return before > zero ? gradient : zero;
  if (act == kRelu6) {
    gradient = before >= zero ? gradient : zero;
    return before <= six ? gradient : zero;
  }
  return gradient;
}

// How many of a block's 16 images there are.
inline int images_in(int batch, int block) {
  const int left = batch - block * kLanes;
  return left < kLanes ? left : kLanes;
}

// 1 where a block has an image, 0 in the lanes that it has too many.
struct LaneMask {
  vec part[kParts];
  LaneMask(int batch, int block) {
    float ones[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) ones[lane] = lane < images_in(batch, block);
    for (int p = 0; p < kParts; ++p) part[p] = load(ones + p * kWidth);
  }
};

// Memory that a thread keeps from call to call.
class Scratch {
 public:
  ~Scratch() { free(memory_); }
  float* floats(size_t count) {
    if (count > size_) {
      free(memory_);
      size_ = count;
      if (posix_memalign(&memory_, 64, count * sizeof(float))) abort();
    }
    return static_cast<float*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// Memory for the time of one call.
template <typename T>
class Array {
 public:
  explicit Array(size_t count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, (count ? count : 1) * sizeof(T))) abort();
    data_ = static_cast<T*>(memory);
  }
  ~Array() { free(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  operator T*() { return data_; }

 private:
  T* data_;
};

constexpr int least(int a, int b) { return a < b ? a : b; }
constexpr int most(int a, int b) { return a > b ? a : b; }
inline int divide_up(int a, int b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace igcnet
#endif  // IGCNET_VECTORS_H_
