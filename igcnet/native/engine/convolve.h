// Convolutions: sums over planes that are shifted by a constant.
#ifndef IGCNET_ENGINE_CONVOLVE_H_
#define IGCNET_ENGINE_CONVOLVE_H_

#include "activation.h"

namespace igcnet {
namespace engine {
namespace {

// Vectors of pixels that a tile of so many outputs is wide, so that sums, pixels and a weight fill
// the registers.
#if defined(__AVX512F__)
constexpr int kVectors[] = {0, 8, 8, 7, 5, 4, 4};
#else
constexpr int kVectors[] = {0, 6, 5, 3, 2, 2, 2};
#endif

template <int Outs, int Vectors>
inline void strip(const Convolution& c, const Tile& t, float* base, int p) {
  vec sums[Outs][Vectors];
#pragma GCC unroll 8
  for (int o = 0; o < Outs; ++o) {
    const vec bias = spread(t.bias[o]);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sums[o][v] = bias;
  }
  const float* weight = t.weight;
  for (int k = 0; k < t.sources; ++k, weight += Outs) {
    const float* from = base + p + t.source[k];
    vec x[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) x[v] = load(from + v * kWidth);
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) {
      const vec w = spread(weight[o]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] += x[v] * w;
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < Outs; ++o) {
    if (t.add && t.add[o] != kNothing) {
      const float* add = base + p + t.add[o];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] += load(add + v * kWidth);
    }
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sums[o][v] = activate(sums[o][v], c);
    if (t.factor && t.factor[o] != kNothing) {
      const float* factor = base + p + t.factor[o];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] *= load(factor + v * kWidth);
    }
    float* to = base + p + t.out[o];
    const int32_t* mask = c.planes->mask;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v)
      store(to + v * kWidth, mask ? masked(sums[o][v], mask + p + v * kWidth) : sums[o][v]);
  }
}

// The strips of a tile; those at the end are narrower.
template <int Outs, int Vectors>
struct Strips {
  static void run(const Convolution& c, const Tile& t, float* base, int p, int end) {
    for (; p + (Vectors - 1) * kWidth < end; p += Vectors * kWidth)
      strip<Outs, Vectors>(c, t, base, p);
    if (p < end) Strips<Outs, Vectors - 1>::run(c, t, base, p, end);
  }
};
template <int Outs>
struct Strips<Outs, 0> {
  static void run(const Convolution&, const Tile&, float*, int, int) {}
};

inline void strips(const Convolution& c, const Tile& t, float* base, int p, int end) {
  switch (t.outs) {
    case 1: return Strips<1, kVectors[1]>::run(c, t, base, p, end);
    case 2: return Strips<2, kVectors[2]>::run(c, t, base, p, end);
    case 3: return Strips<3, kVectors[3]>::run(c, t, base, p, end);
    case 4: return Strips<4, kVectors[4]>::run(c, t, base, p, end);
    case 5: return Strips<5, kVectors[5]>::run(c, t, base, p, end);
    default: return Strips<kTallest, kVectors[kTallest]>::run(c, t, base, p, end);
  }
}

void convolve(const Convolution& c, float* base, Part part) {
  const int pixels = c.planes->pixels, lines = divide_up(pixels, kLine);
  // Many groups are divided among the threads, few are computed by all of them.
  const bool by_groups = c.group_count >= 4 * part.count;
  const Part all = {0, 1}, mine = by_groups ? all : part;
  const int begin = mine.begin(lines) * kLine, end = least(mine.end(lines) * kLine, pixels);
  const Part groups = by_groups ? part : all;
  for (int g = groups.begin(c.group_count); g < groups.end(c.group_count); ++g) {
    const Group& group = c.groups[g];
    for (int p = begin; p < end; p += group.block)
      for (int i = group.first; i < group.last; ++i)
        strips(c, c.tiles[i], base, p, least(p + group.block, end));
  }
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_CONVOLVE_H_
