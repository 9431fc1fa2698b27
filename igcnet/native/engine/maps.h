// All that is done to maps but convolutions.
#ifndef IGCNET_ENGINE_MAPS_H_
#define IGCNET_ENGINE_MAPS_H_

#include "activation.h"

namespace igcnet {
namespace engine {
namespace {

inline void take(const float* from, int stride, int count, float* to) {
  if (stride == 1) {
    memcpy(to, from, count * sizeof(float));
  } else if (stride == 2) {  // a constant, which the compiler turns into vectors
    for (int x = 0; x < count; ++x) to[x] = from[2 * x];
  } else {
    for (int x = 0; x < count; ++x) to[x] = from[stride * x];
  }
}

// How many of `most` pixels there are from `first` on, `stride` apart, below `size`.
inline int there_are(int size, int first, int stride, int most) {
  return first >= size ? 0 : least(most, divide_up(size - first, stride));
}

void move(const Move& m, const float* from, float* base, Part part) {
  const Planes& planes = *m.planes;
  for (int i = part.begin(m.count); i < part.end(m.count); ++i) {
    const Phase& phase = m.phases[i];
    const float* plane = from + static_cast<int64_t>(phase.channel) * m.channel + phase.column;
    float* to = base + static_cast<int64_t>(phase.slot) * planes.plane;
    const int rows = there_are(m.height, phase.row, m.stride, planes.height);
    const int columns = there_are(m.width, phase.column, m.stride, planes.width);
    for (int y = 0; y < planes.height; ++y, to += planes.row) {
      const int found = y < rows ? columns : 0;
      take(plane + static_cast<int64_t>(phase.row + y * m.stride) * m.row, m.stride, found, to);
      memset(to + found, 0, (planes.width - found) * sizeof(float));
    }
  }
}

void largest(const Largest& step, float* base, Part part) {
  const Planes& planes = *step.planes;
  for (int i = part.begin(step.count); i < part.end(step.count); ++i) {
    const int* source = step.source + static_cast<int64_t>(i) * step.sources;
    for (int p = 0; p < planes.pixels; p += kWidth) {
      vec most = load(base + p + source[0]);
      for (int k = 1; k < step.sources; ++k) {
        const vec x = load(base + p + source[k]);
        most = most > x ? most : x;
      }
      store(base + p + step.out[i], planes.mask ? masked(most, planes.mask + p) : most);
    }
  }
}

void mean(const Mean& step, const float* base, float* vector, Part part) {
  const Planes& planes = *step.planes;
  const float count = static_cast<float>(planes.height) * planes.width;
  for (int i = part.begin(step.count); i < part.end(step.count); ++i) {
    const float* plane = base + step.place[i];
    vec sums = {};
    int p = 0;
    for (; p + kWidth <= planes.pixels; p += kWidth) sums += load(plane + p);
    float total = sum(sums);
    for (; p < planes.pixels; ++p) total += plane[p];
    vector[i] = total / count;
  }
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_MAPS_H_
