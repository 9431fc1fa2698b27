// What the engine asks of its kernels; three builds of them for x86, see vectors.h.
//
// Planes: igcnet/deploy/program.py. All that stands in a plane is found by adding a number of
// floats to the address of the first pixel of slot 0 of its size, which is called `base` here.
#ifndef IGCNET_ENGINE_KERNELS_H_
#define IGCNET_ENGINE_KERNELS_H_

#include <stdint.h>

namespace igcnet {
namespace engine {

constexpr int kTallest = 6;   // outputs of a tile
constexpr int kFewOuts = 2;   // a group of so few may be computed by columns
constexpr int kLongest = 3;   // rows of a column
constexpr int kLine = 16;     // floats in a cache line: where planes begin, what masks are rounded to
constexpr int kBeyond = 128;  // floats that may be read behind all planes
constexpr int kNothing = -1;  // NOTHING of program.py

// The planes of one size.
struct Planes {
  int height, width, gap;
  int row;     // from a pixel to the one below it
  int pixels;  // with the gaps between the rows
  int plane;   // from a slot to the next
  const int32_t* mask;  // for each of `pixels`, rounded up: 0 in a gap, else -1; null without gaps
};

// Sources of a group below each other in one plane.
struct Column {
  int place;   // of what pixel 0 reads first
  int length;  // up to kLongest
};

// Some outputs of a group, which has either columns or single sources.
struct Tile {
  int sources, outs, columns;
  const int* source;  // of each the place of what pixel 0 reads
  const Column* column;
  const float* weight;  // (sources, outs), in the order of the columns
  const float* bias;
  const int* out;
  const int* add;     // places, or kNothing; null where no output has one
  const int* factor;  // likewise
};

// The tiles of a group; all read the same sources.
struct Group {
  int first, last;  // tiles
  int block;        // pixels after which the next tile has its turn
};

struct Convolution {
  const Planes* planes;
  const Tile* tiles;
  const Group* groups;
  int group_count, tile_count;
  bool sigmoid;
  float low, high;
};

struct Largest {
  const Planes* planes;
  int count, sources;
  const int* source;  // (count, sources)
  const int* out;
};

struct Phase {  // program.Enter
  int channel, row, column, slot;
};

struct Move {
  const Planes* planes;
  int stride, count;
  const Phase* phases;
  // What is read: the pixels of a channel.
  int height, width, row, channel;
  int64_t floats;  // of all that is there
};

struct Mean {
  const Planes* planes;
  int count;
  const int* place;
};

struct Dense {
  int inputs, outputs, blocks;  // blocks of kDenseBlock outputs
  const float* weight;          // (blocks, inputs, kDenseBlock)
  const float* bias;            // (blocks, kDenseBlock)
  float low, high;
};
constexpr int kDenseBlock = 32;

// Part `number` of `count` that a step is cut into.
struct Part {
  int number, count;
  int begin(int things) const { return static_cast<int>(static_cast<int64_t>(things) * number / count); }
  int end(int things) const { return static_cast<int>(static_cast<int64_t>(things) * (number + 1) / count); }
};

struct Kernels {
  const char* name;
  // Whether a group had better be computed by columns.
  bool (*by_columns)(const Planes&, int outs, int count, const Column* columns);
  void (*move)(const Move&, const float* from, float* base, Part);
  void (*convolve)(const Convolution&, float* base, Part);
  void (*largest)(const Largest&, float* base, Part);
  void (*mean)(const Mean&, const float* base, float* vector, Part);
  // Vectors of `images`; each begins `in_step` or `out_step` floats behind the one before.
  void (*dense)(const Dense&, int images, const float* in, int in_step, float* out, int out_step,
                Part);
};

extern const Kernels kBaseline;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_KERNELS_H_
