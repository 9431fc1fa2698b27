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

constexpr int kManyFloats = 4096;  // more than the nearest cache keeps

// `to` gets every `Stride`th number. Whole vectors are read, but not beyond `end`.
template <int Stride>
inline void take_apart(const float* from, int count, const float* end, float* to) {
  const int reach = divide_up(count, kWidth) * kWidth * Stride;
  const int safe = end - from >= reach ? count : count - kWidth;
  int x = 0;
  for (; x < safe; x += kWidth)
    store_some<Whole>(to + x, load_apart<Stride>(from + Stride * x), count - x);
  for (; x < count; ++x) to[x] = from[Stride * x];
}

// Rows of pixels that are apart.
struct Rows {
  int count, pixels;
  const float* from;
  int64_t from_row;
  const float* end;  // of what may be read
  float* to;
  int to_row;
};

template <int Stride>
inline void take_rows(const Rows& r) {
  for (int y = 0; y < r.count; ++y)
    take_apart<Stride>(r.from + y * r.from_row, r.pixels, r.end, r.to + y * r.to_row);
}

inline void take(const Rows& r, int stride) {
  switch (r.pixels ? stride : 0) {
    case 0: break;
    case 1: return take_rows<1>(r);
    case 2: return take_rows<2>(r);
    case 4: return take_rows<4>(r);
    default:
      for (int y = 0; y < r.count; ++y)
        for (int x = 0; x < r.pixels; ++x)
          r.to[y * r.to_row + x] = r.from[y * r.from_row + stride * x];
  }
}

// How many of `limit` pixels there are from `first` on, `stride` apart, below `size`.
inline int there_are(int size, int first, int stride, int limit) {
  return first >= size ? 0 : least(limit, divide_up(size - first, stride));
}

// Rows `begin` to `end` of a phase.
inline void move_rows(const Move& m, const float* from, float* base, const Phase& phase, int begin,
                      int end) {
  const Planes& planes = *m.planes;
  const int rows = most(there_are(m.height, phase.row, m.stride, end) - begin, 0);
  const int pixels = there_are(m.width, phase.column, m.stride, planes.width);
  float* to = base + static_cast<int64_t>(phase.slot) * planes.plane + begin * planes.row;
  const float* first = from + static_cast<int64_t>(phase.channel) * m.channel
      + static_cast<int64_t>(phase.row + begin * m.stride) * m.row + phase.column;
  take({rows, pixels, first, static_cast<int64_t>(m.stride) * m.row, from + m.floats, to,
        planes.row}, m.stride);
  for (int y = 0; y < end - begin; ++y) {
    const int found = y < rows ? pixels : 0;
    if (found < planes.width)
      memset(to + y * planes.row + found, 0, (planes.width - found) * sizeof(float));
  }
}

// Some phases of one channel. Large ones are read row by row, so that each row is read once.
inline void move_phases(const Move& m, const float* from, float* base, const Phase* phases,
                        int count) {
  const int height = m.planes->height, step = m.channel > kManyFloats ? 1 : height;
  for (int y = 0; y < height; y += step)
    for (int i = 0; i < count; ++i) move_rows(m, from, base, phases[i], y, y + step);
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
