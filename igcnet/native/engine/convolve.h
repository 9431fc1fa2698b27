// Convolutions: sums over planes that are shifted by a constant.
#ifndef IGCNET_ENGINE_CONVOLVE_H_
#define IGCNET_ENGINE_CONVOLVE_H_

#include "rows.h"

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

constexpr int kManyPixels = 96;  // for a thread
constexpr int kManyTiles = 4;

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
  for (int o = 0; o < Outs; ++o)
    if (t.add && t.add[o] != kNothing) {
      const float* add = base + p + t.add[o];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] += load(add + v * kWidth);
    }
  if (c.sigmoid) {
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] = sigmoid<Whole>(sums[o][v]);
  } else {
    const vec low = spread(c.low), high = spread(c.high);
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] = clamp<Whole>(sums[o][v], low, high);
  }
  const int32_t* mask = c.planes->mask;
#pragma GCC unroll 8
  for (int o = 0; o < Outs; ++o) {
    if (t.factor && t.factor[o] != kNothing) {
      const float* factor = base + p + t.factor[o];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[o][v] *= load(factor + v * kWidth);
    }
    float* to = base + p + t.out[o];
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

// Cycles of a group, roughly: a load that is not aligned counts twice, and the processor loads
// while it multiplies.
bool by_columns(const Planes& planes, int outs, int count, const Column* columns) {
  if (outs > kFewOuts) return false;
  const int most = kRows[outs], blocks = divide_up(planes.height, most);
  const float rows = static_cast<float>(planes.height) / blocks;
  float sources = 0, cycles = 0;
  for (int i = 0; i < count; ++i) {
    const float loads = 2 * (rows + columns[i].length - 1), sums = rows * columns[i].length * outs;
    cycles += loads > sums ? loads : sums;
    sources += columns[i].length;
  }
  cycles *= blocks * (divide_up(2 * planes.width, kWidth) / 2.0f);
  return cycles < sources * divide_up(planes.pixels, kWidth) * (outs > 2 ? outs : 2);
}

// Where the pixels of row `y` begin for a thread; a multiple of a line.
inline int pixel_of(const Planes& planes, int y) {
  return y == planes.height ? planes.pixels : y * planes.row / kLine * kLine;
}

void convolve(const Convolution& c, float* base, Part part) {
  const Planes& planes = *c.planes;
  // Threads share the rows of large maps, where what they read of each other is little, and the
  // outputs of small ones, where their weights are more than their pixels.
  const bool by_rows = planes.pixels >= kManyPixels * part.count ||
      c.tile_count < kManyTiles * part.count;
  const Part all = {0, 1}, of_rows = by_rows ? part : all, of_tiles = by_rows ? all : part;
  const int begin = of_rows.begin(planes.height), end = of_rows.end(planes.height);
  const int first = of_tiles.begin(c.tile_count), last = of_tiles.end(c.tile_count);
  const int from = pixel_of(planes, begin), to = pixel_of(planes, end);
  for (const Group* g = c.groups; g < c.groups + c.group_count; ++g) {
    const int begin_tile = most(g->first, first), end_tile = least(g->last, last);
    if (begin_tile >= end_tile) continue;
    if (c.tiles[begin_tile].columns) {
      rows(c, c.tiles[begin_tile], base, begin, end);
      continue;
    }
    for (int p = from; p < to; p += g->block)
      for (int i = begin_tile; i < end_tile; ++i)
        strips(c, c.tiles[i], base, p, least(p + g->block, to));
  }
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_CONVOLVE_H_
