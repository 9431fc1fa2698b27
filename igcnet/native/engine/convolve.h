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

constexpr int kLargeMap = 256;    // pixels
constexpr int kManyPixels = 96;  // for a thread
constexpr int kManyTiles = 4;

// Sums of `Outs` planes for `Count` vectors of pixels.
template <typename W, int Outs, int Count>
struct Sums {
  typedef typename W::floats floats;
  floats sums[Outs][Count];

  inline void start(const float* bias) {
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o)
#pragma GCC unroll 8
      for (int v = 0; v < Count; ++v) sums[o][v] = bias[o] - floats{};
  }

  inline void add(const float* from, const float* weight) {
    floats x[Count];
#pragma GCC unroll 8
    for (int v = 0; v < Count; ++v) x[v] = load_as<W>(from + v * W::kCount);
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) {
      const floats w = weight[o] - floats{};
#pragma GCC unroll 8
      for (int v = 0; v < Count; ++v) sums[o][v] += x[v] * w;
    }
  }

  inline void finish(const Convolution& c, const Tile& t, float* base, int p) {
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o)
      if (t.add && t.add[o] != kNothing) {
        const float* from = base + p + t.add[o];
#pragma GCC unroll 8
        for (int v = 0; v < Count; ++v) sums[o][v] += load_as<W>(from + v * W::kCount);
      }
    if (c.sigmoid) {
#pragma GCC unroll 8
      for (int o = 0; o < Outs; ++o)
#pragma GCC unroll 8
        for (int v = 0; v < Count; ++v) sums[o][v] = sigmoid<W>(sums[o][v]);
    } else {
      const floats low = c.low - floats{}, high = c.high - floats{};
#pragma GCC unroll 8
      for (int o = 0; o < Outs; ++o)
#pragma GCC unroll 8
        for (int v = 0; v < Count; ++v) sums[o][v] = clamp<W>(sums[o][v], low, high);
    }
    const int32_t* mask = c.planes->mask;
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) {
      if (t.factor && t.factor[o] != kNothing) {
        const float* factor = base + p + t.factor[o];
#pragma GCC unroll 8
        for (int v = 0; v < Count; ++v) sums[o][v] *= load_as<W>(factor + v * W::kCount);
      }
      float* to = base + p + t.out[o];
#pragma GCC unroll 8
      for (int v = 0; v < Count; ++v) {
        const floats value = mask ? masked<W>(sums[o][v], mask + p + v * W::kCount) : sums[o][v];
        *reinterpret_cast<floats*>(to + v * W::kCount) = value;
      }
    }
  }
};
template <typename W, int Outs>
struct Sums<W, Outs, 0> {
  inline void start(const float*) {}
  inline void add(const float*, const float*) {}
  inline void finish(const Convolution&, const Tile&, float*, int) {}
};

// Some vectors of pixels, and half a vector.
template <int Outs, int Vectors, int Halves>
inline void strip(const Convolution& c, const Tile& t, float* base, int p) {
  constexpr int kEnd = Vectors * kWidth;
  Sums<Whole, Outs, Vectors> sums;
  Sums<Half, Outs, Halves> end;
  sums.start(t.bias);
  end.start(t.bias);
  const float *weight = t.weight, *pixels = base + p;
  for (int k = 0; k < t.sources; ++k, weight += Outs) {
    const float* from = pixels + t.source[k];
    sums.add(from, weight);
    end.add(from + kEnd, weight);
  }
  sums.finish(c, t, base, p);
  end.finish(c, t, base, p + kEnd);
}

// The end of a tile, up to so many vectors and a half.
template <int Outs, int Vectors>
struct End {
  static void run(const Convolution& c, const Tile& t, float* base, int p, int halves) {
    constexpr int kHalves = kWidth / Half::kCount;  // in a vector
    if (halves > Vectors * kHalves)
      strip<Outs, Vectors, kHalves - 1>(c, t, base, p);
    else if (halves > (Vectors - 1) * kHalves + kHalves - 1)
      strip<Outs, Vectors, 0>(c, t, base, p);
    else
      End<Outs, Vectors - 1>::run(c, t, base, p, halves);
  }
};
template <int Outs>
struct End<Outs, 0> {
  static void run(const Convolution& c, const Tile& t, float* base, int p, int) {
    strip<Outs, 0, 1>(c, t, base, p);
  }
};

template <int Outs>
inline void strips_of(const Convolution& c, const Tile& t, float* base, int p, int end) {
  constexpr int kPixels = kVectors[Outs] * kWidth;
  for (; end - p > kPixels - Half::kCount; p += kPixels)
    strip<Outs, kVectors[Outs], 0>(c, t, base, p);
  if (p < end) End<Outs, kVectors[Outs] - 1>::run(c, t, base, p, divide_up(end - p, Half::kCount));
}

inline void strips(const Convolution& c, const Tile& t, float* base, int p, int end) {
  switch (t.outs) {
    case 1: return strips_of<1>(c, t, base, p, end);
    case 2: return strips_of<2>(c, t, base, p, end);
    case 3: return strips_of<3>(c, t, base, p, end);
    case 4: return strips_of<4>(c, t, base, p, end);
    case 5: return strips_of<5>(c, t, base, p, end);
    default: return strips_of<kTallest>(c, t, base, p, end);
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
  // Short columns read several large planes with less help of the processor's prefetching.
  const bool near = sources >= 2.5f * count || planes.pixels < kLargeMap;
  return near && cycles < 1.8f * sources * divide_up(planes.pixels, kWidth);
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
