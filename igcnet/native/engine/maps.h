// All that is done to maps but convolutions.
#ifndef IGCNET_ENGINE_MAPS_H_
#define IGCNET_ENGINE_MAPS_H_

#include "activation.h"

namespace igcnet {
namespace engine {
namespace {

// Every second number of two vectors.
inline vec every_second(vec one, vec other) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(one, other, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                 30);
#elif defined(__AVX__)
  return __builtin_shufflevector(one, other, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return __builtin_shufflevector(one, other, 0, 2, 4, 6);
#endif
}

// A vector of numbers that are `Stride` apart, a power of two.
template <int Stride>
inline vec load_apart(const float* from) {
  return every_second(load_apart<Stride / 2>(from),
                      load_apart<Stride / 2>(from + kWidth * Stride / 2));
}
template <>
inline vec load_apart<1>(const float* from) {
  return load(from);
}

// `to` gets every `Stride`th number. `open`: what stands behind the last one may be read.
template <int Stride>
inline void take_apart(const float* from, int count, bool open, float* to) {
  int x = 0;
  for (; x + (open ? 0 : kWidth) < count; x += kWidth)
    store_some<Whole>(to + x, load_apart<Stride>(from + Stride * x), count - x);
  if (open) return;
  float part[kWidth * Stride];
  memcpy(part, from + Stride * x, (Stride * (count - x - 1) + 1) * sizeof(float));
  store_some<Whole>(to + x, load_apart<Stride>(part), count - x);
}

inline void take(const float* from, int stride, int count, bool open, float* to) {
  switch (count ? stride : 0) {
    case 0: break;
    case 1: memcpy(to, from, count * sizeof(float)); break;
    case 2: take_apart<2>(from, count, open, to); break;
    case 4: take_apart<4>(from, count, open, to); break;
    default:
      for (int x = 0; x < count; ++x) to[x] = from[stride * x];
  }
}

// How many of `limit` pixels there are from `first` on, `stride` apart, below `size`.
inline int there_are(int size, int first, int stride, int limit) {
  return first >= size ? 0 : least(limit, divide_up(size - first, stride));
}

// Some phases of one channel: row by row, so that a row is read only once.
inline void move_phases(const Move& m, const float* from, float* base, const Phase* phases,
                        int count) {
  const Planes& planes = *m.planes;
  const float* channel = from + static_cast<int64_t>(phases->channel) * m.channel;
  for (int y = 0; y < planes.height; ++y)
    for (const Phase* phase = phases; phase < phases + count; ++phase) {
      const int row = phase->row + y * m.stride;
      const int found = row < m.height ? there_are(m.width, phase->column, m.stride, planes.width)
          : 0;
      float* to = base + static_cast<int64_t>(phase->slot) * planes.plane + y * planes.row;
      take(channel + static_cast<int64_t>(row) * m.row + phase->column, m.stride, found, m.open,
           to);
      if (found < planes.width) memset(to + found, 0, (planes.width - found) * sizeof(float));
    }
}

void move(const Move& m, const float* from, float* base, Part part) {
  const int end = part.end(m.count);
  for (int i = part.begin(m.count), next; i < end; i = next) {
    for (next = i + 1; next < end && m.phases[next].channel == m.phases[i].channel;) ++next;
    move_phases(m, from, base, m.phases + i, next - i);
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
      store(base + p + step.out[i], planes.mask ? masked<Whole>(most, planes.mask + p) : most);
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
