#include "network.h"

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>
#include <tuple>

namespace igcnet {
namespace engine {
namespace {

constexpr int kFirstLevel = 6 * 1024;  // floats of sources that stay in the first cache
constexpr int kOneStrip = 64;          // pixels

int round_up(int64_t count, int multiple) {
  const int64_t rounded = (count + multiple - 1) / multiple * multiple;
  if (rounded > std::numeric_limits<int>::max()) throw std::bad_alloc();
  return static_cast<int>(rounded);
}

struct MoveStep : Step {
  Move move;
  size_t source, first;
  bool of_image;
  void run(const Kernels& kernels, const Place& place, Part part) const override {
    kernels.move(move, of_image ? place.image : place.planes + source, place.planes + first, part);
  }
};

struct ConvolutionStep : Step {
  Convolution convolution;
  size_t first;
  void run(const Kernels& kernels, const Place& place, Part part) const override {
    kernels.convolve(convolution, place.planes + first, part);
  }
};

struct LargestStep : Step {
  Largest largest;
  size_t first;
  void run(const Kernels& kernels, const Place& place, Part part) const override {
    kernels.largest(largest, place.planes + first, part);
  }
};

struct MeanStep : Step {
  Mean mean;
  size_t first;
  void run(const Kernels& kernels, const Place& place, Part part) const override {
    kernels.mean(mean, place.planes + first, place.vector, part);
  }
};

}  // namespace

Network::Network(const Kernels& kernels, int channels, int height, int width, int classes)
    : kernels(kernels), channels(channels), height(height), width(width), classes(classes) {}

void Network::add_size(int height, int width, int gap, int slots) {
  const int row = width + gap, edge = round_up((row + INT64_C(1)) * gap, kLine);
  Planes planes = {height, width, gap, row, 0, 0, nullptr};
  planes.pixels = round_up(static_cast<int64_t>(height) * row, 1);
  const int rounded = round_up(planes.pixels, kLine);
  planes.plane = round_up(static_cast<int64_t>(rounded) + edge, kLine);
  // An odd number of lines, so that the same pixels of several planes are kept in different sets
  // of a cache.
  if (planes.plane / kLine % 2 == 0) planes.plane += kLine;
  round_up(static_cast<int64_t>(planes.plane) * (slots + 1), 1);  // places are ints
  if (gap) {
    int32_t* mask = store_.make<int32_t>(rounded);
    for (int y = 0; y < height; ++y) std::fill_n(mask + y * row, width, -1);
    planes.mask = mask;
  }
  const size_t first = floats_ + edge;
  sizes_.push_back({planes, first, slots});
  floats_ = first + static_cast<size_t>(planes.plane) * slots + edge + kBeyond;
}

int Network::place(const Planes& planes, const int32_t* source) const {
  return source[0] * planes.plane + source[1] * planes.row + source[2];
}

const int* Network::places(const Planes& planes, const int32_t* slots, int count, bool* any) {
  int* found = store_.make<int>(count);
  *any = false;
  for (int i = 0; i < count; ++i) {
    found[i] = slots[i] == kNothing ? kNothing : slots[i] * planes.plane;
    *any = *any || found[i] != kNothing;
  }
  return found;
}

void Network::add_move(int source, int size, int stride, int count, const int32_t* table) {
  std::unique_ptr<MoveStep> step(new MoveStep);
  const Size& to = sizes_[size];
  step->move = {&to.planes, stride, count,
                store_.copy(reinterpret_cast<const Phase*>(table), count),
                height, width, width, height * width,
                static_cast<int64_t>(channels) * height * width};
  step->of_image = source == kNothing;
  step->source = 0;
  step->first = to.first;
  if (!step->of_image) {
    const Planes& from = sizes_[source].planes;
    step->move.height = from.height, step->move.width = from.width;
    step->move.row = from.row, step->move.channel = from.plane;
    step->source = sizes_[source].first;
    step->move.floats = static_cast<int64_t>(from.plane) * sizes_[source].slots + kBeyond;
  }
  steps_.push_back(std::move(step));
}

void Network::begin_convolution(int size, bool sigmoid, float low, float high) {
  first_ = sizes_[size].first;
  convolution_ = {&sizes_[size].planes, nullptr, nullptr, 0, 0, sigmoid, low, high};
  tiles_.clear();
  groups_.clear();
}

void Network::add_group(const GivenGroup& given) {
  const Planes& planes = *convolution_.planes;
  std::vector<int> order(given.sources);
  std::iota(order.begin(), order.end(), 0);
  std::vector<Column> columns = columns_of(given, planes, &order);
  if (!kernels.by_columns(planes, given.outs, static_cast<int>(columns.size()), columns.data())) {
    std::iota(order.begin(), order.end(), 0);
    columns.clear();
  }
  int* source = store_.make<int>(columns.empty() ? given.sources : 0);
  if (columns.empty())
    for (int k = 0; k < given.sources; ++k) source[k] = place(planes, given.source + 3 * k);
  const Column* column = store_.copy(columns.data(), columns.size());
  const int tiles = (given.outs + kTallest - 1) / kTallest;
  const int first = static_cast<int>(tiles_.size());
  for (int i = 0; i < tiles; ++i) {
    // Of heights that differ by one at most.
    add_tile(given, order, given.outs * i / tiles, given.outs * (i + 1) / tiles);
    Tile& tile = tiles_.back();
    tile.source = source;
    tile.column = column;
    tile.columns = static_cast<int>(columns.size());
  }
  // While a block of pixels is in the nearest cache, all tiles read it.
  const int block = tiles == 1 ? planes.pixels
      : std::max(kFirstLevel / given.sources / kOneStrip * kOneStrip, kOneStrip);
  groups_.push_back({first, first + tiles, block});
}

// Which sources stand below each other, at most kLongest together; `order` is theirs. None where
// a group has too many outputs for it to matter.
std::vector<Column> Network::columns_of(const GivenGroup& given, const Planes& planes,
                                        std::vector<int>* order) const {
  std::vector<Column> columns;
  if (given.outs > kFewOuts) return columns;
  const auto source = [&](int k) { return given.source + 3 * k; };
  std::stable_sort(order->begin(), order->end(), [&](int a, int b) {
    const int32_t *one = source(a), *other = source(b);
    return std::make_tuple(one[0], one[2], one[1]) < std::make_tuple(other[0], other[2], other[1]);
  });
  const int32_t* last = nullptr;
  for (int k : *order) {
    const int32_t* next = source(k);
    if (last && columns.back().length < kLongest && next[0] == last[0] && next[2] == last[2] &&
        next[1] == last[1] + 1)
      ++columns.back().length;
    else
      columns.push_back({place(planes, next), 1});
    last = next;
  }
  return columns;
}

void Network::add_tile(const GivenGroup& given, const std::vector<int>& order, int begin,
                       int end) {
  const int outs = end - begin;
  const Planes& planes = *convolution_.planes;
  float* weight = store_.make<float>(static_cast<size_t>(given.sources) * outs);
  for (int k = 0; k < given.sources; ++k)
    for (int o = 0; o < outs; ++o)
      weight[static_cast<size_t>(k) * outs + o] =
          given.weight[static_cast<size_t>(begin + o) * given.sources + order[k]];
  bool any = false;
  Tile tile = {given.sources, outs, 0, nullptr, nullptr, weight,
               store_.copy(given.bias + begin, outs), nullptr, nullptr, nullptr};
  tile.out = places(planes, given.out + begin, outs, &any);
  tile.add = places(planes, given.add + begin, outs, &any);
  if (!any) tile.add = nullptr;
  tile.factor = places(planes, given.factor + begin, outs, &any);
  if (!any) tile.factor = nullptr;
  tiles_.push_back(tile);
}

void Network::end_convolution() {
  std::unique_ptr<ConvolutionStep> step(new ConvolutionStep);
  convolution_.tiles = store_.copy(tiles_.data(), tiles_.size());
  convolution_.groups = store_.copy(groups_.data(), groups_.size());
  convolution_.group_count = static_cast<int>(groups_.size());
  convolution_.tile_count = static_cast<int>(tiles_.size());
  step->convolution = convolution_;
  step->first = first_;
  steps_.push_back(std::move(step));
}

void Network::add_largest(int size, int count, int sources, const int32_t* source,
                          const int32_t* out) {
  std::unique_ptr<LargestStep> step(new LargestStep);
  const Planes& planes = sizes_[size].planes;
  int* read = store_.make<int>(static_cast<size_t>(count) * sources);
  for (int i = 0; i < count * sources; ++i) read[i] = place(planes, source + 3 * i);
  bool any = false;
  step->largest = {&planes, count, sources, read, places(planes, out, count, &any)};
  step->first = sizes_[size].first;
  steps_.push_back(std::move(step));
}

void Network::add_mean(int size, int count, const int32_t* slots) {
  std::unique_ptr<MeanStep> step(new MeanStep);
  bool any = false;
  step->mean = {&sizes_[size].planes, count, places(sizes_[size].planes, slots, count, &any)};
  step->first = sizes_[size].first;
  features_ = count;
  steps_.push_back(std::move(step));
}

void Network::add_dense(int outputs, int inputs, const float* weight, const float* bias, float low,
                        float high) {
  const int blocks = (outputs + kDenseBlock - 1) / kDenseBlock;
  float* packed = store_.make<float>(static_cast<size_t>(blocks) * inputs * kDenseBlock);
  float* biases = store_.make<float>(static_cast<size_t>(blocks) * kDenseBlock);
  for (int o = 0; o < outputs; ++o) {
    float* to = packed + static_cast<size_t>(o / kDenseBlock) * inputs * kDenseBlock
        + o % kDenseBlock;
    for (int k = 0; k < inputs; ++k)
      to[static_cast<size_t>(k) * kDenseBlock] = weight[static_cast<size_t>(o) * inputs + k];
    biases[o] = bias[o];
  }
  dense_.push_back({inputs, outputs, blocks, packed, biases, low, high});
}

}  // namespace engine
}  // namespace igcnet
