// Convolutions with few outputs a group, several rows at once: what is read from a plane is used
// for each row of the window.
#ifndef IGCNET_ENGINE_ROWS_H_
#define IGCNET_ENGINE_ROWS_H_

#include "activation.h"

namespace igcnet {
namespace engine {
namespace {

// Rows of sums that a tile of so many outputs has; sums, weights and a row fill the registers.
#if defined(__AVX512F__)
constexpr int kRows[] = {0, 14, 8};
constexpr int kNarrow = 8;  // columns that half a vector has
#elif defined(__AVX__)
constexpr int kRows[] = {0, 8, 4};
constexpr int kNarrow = 0;
#else
constexpr int kRows[] = {0, 7, 4};
constexpr int kNarrow = 0;
#endif

// What a column of `Length` sources below each other adds to `Rows` rows of sums.
template <typename W, int Outs, int Rows, int Length>
inline const float* add_column(const float* from, int row, const float* weight,
                               typename W::floats (&sums)[Rows][Outs]) {
  typedef typename W::floats floats;
  floats w[Length][Outs];
#pragma GCC unroll 8
  for (int d = 0; d < Length; ++d)
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) w[d][o] = weight[d * Outs + o] - floats{};
#pragma GCC unroll 32
  for (int r = 0; r < Rows + Length - 1; ++r) {
    const floats x = load_as<W>(from + r * static_cast<int64_t>(row));
#pragma GCC unroll 8
    for (int d = 0; d < Length; ++d)
      if (r - d >= 0 && r - d < Rows)
#pragma GCC unroll 8
        for (int o = 0; o < Outs; ++o) sums[r - d < 0 ? 0 : r - d][o] += x * w[d][o];
  }
  return weight + Length * Outs;
}

// `Rows` rows of a tile, as many pixels as a vector has; `count` of them are stored.
template <typename W, int Outs, int Rows>
inline void some_rows(const Convolution& c, const Tile& t, float* base, int p, int count) {
  const int row = c.planes->row;
  typedef typename W::floats floats;
  floats sums[Rows][Outs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int o = 0; o < Outs; ++o) sums[r][o] = t.bias[o] - floats{};
  const float* weight = t.weight;
  for (int i = 0; i < t.columns; ++i) {
    const float* from = base + p + t.column[i].place;
    switch (t.column[i].length) {
      case 1: weight = add_column<W, Outs, Rows, 1>(from, row, weight, sums); break;
      case 2: weight = add_column<W, Outs, Rows, 2>(from, row, weight, sums); break;
      default: weight = add_column<W, Outs, Rows, kLongest>(from, row, weight, sums);
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < Outs; ++o)
    if (t.add && t.add[o] != kNothing) {
      const float* add = base + p + t.add[o];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) sums[r][o] += load_as<W>(add + r * row);
    }
  if (c.sigmoid) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (int o = 0; o < Outs; ++o) sums[r][o] = sigmoid<W>(sums[r][o]);
  } else {
    const floats low = c.low - floats{}, high = c.high - floats{};
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (int o = 0; o < Outs; ++o) sums[r][o] = clamp<W>(sums[r][o], low, high);
  }
#pragma GCC unroll 8
  for (int o = 0; o < Outs; ++o) {
    if (t.factor && t.factor[o] != kNothing) {
      const float* factor = base + p + t.factor[o];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) sums[r][o] *= load_as<W>(factor + r * row);
    }
    float* to = base + p + t.out[o];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) store_some<W>(to + r * row, sums[r][o], count);
  }
}

template <int Outs, int Rows>
struct RowBlock {
  static void run(const Convolution& c, const Tile& t, float* base, int y, int rows) {
    if (rows < Rows) return RowBlock<Outs, Rows - 1>::run(c, t, base, y, rows);
    const int width = c.planes->width, p = y * c.planes->row;
    int x = 0;
    for (; width - x > kNarrow; x += kWidth)
      some_rows<Whole, Outs, Rows>(c, t, base, p + x, width - x);
    if (x < width) some_rows<Half, Outs, Rows>(c, t, base, p + x, width - x);
  }
};
template <int Outs>
struct RowBlock<Outs, 0> {
  static void run(const Convolution&, const Tile&, float*, int, int) {}
};

template <int Outs>
inline void row_blocks(const Convolution& c, const Tile& t, float* base, int begin, int end) {
  constexpr int kMost = kRows[Outs];
  const int blocks = divide_up(end - begin, kMost);
  for (int i = 0; i < blocks; ++i) {  // of heights that differ by one at most
    const Part part = {i, blocks};
    const int y = begin + part.begin(end - begin);
    RowBlock<Outs, kMost>::run(c, t, base, y, begin + part.end(end - begin) - y);
  }
}

// Rows `begin` to `end` of a tile with columns.
inline void rows(const Convolution& c, const Tile& t, float* base, int begin, int end) {
  (t.outs == 1 ? row_blocks<1> : row_blocks<2>)(c, t, base, begin, end);
}

}  // namespace
}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_ROWS_H_
