// A program as the kernels take it: weights packed, slots as places in memory.
#ifndef IGCNET_ENGINE_NETWORK_H_
#define IGCNET_ENGINE_NETWORK_H_

#include <deque>
#include <memory>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace igcnet {
namespace engine {

// Where one image is computed.
struct Place {
  const float* image;
  float* planes;
  float* vector;  // the means
};

class Step {
 public:
  virtual ~Step() {}
  virtual void run(const Kernels& kernels, const Place& place, Part part) const = 0;
};

// One group as Python hands it over.
struct GivenGroup {
  int sources, outs;
  const int32_t* source;  // (sources, 3): slot, rows down, columns to the right
  const float* weight;    // (outs, sources)
  const float* bias;
  const int32_t *out, *add, *factor;
};

class Network {
 public:
  Network(const Kernels& kernels, int channels, int height, int width, int classes);

  void add_size(int height, int width, int gap, int slots);
  // `source` is a size or kNothing, which stands for the image.
  void add_move(int source, int size, int stride, int count, const int32_t* table);
  void begin_convolution(int size, bool sigmoid, float low, float high);
  void add_group(const GivenGroup& group);
  void end_convolution();
  void add_largest(int size, int count, int sources, const int32_t* source, const int32_t* out);
  void add_mean(int size, int count, const int32_t* slots);
  void add_dense(int outputs, int inputs, const float* weight, const float* bias, float low,
                 float high);

  const Kernels& kernels;
  const int channels, height, width, classes;
  const std::vector<std::unique_ptr<Step>>& steps() const { return steps_; }
  const std::vector<Dense>& dense() const { return dense_; }
  size_t floats() const { return floats_; }  // of all planes
  int features() const { return features_; }

 private:
  struct Size {
    Planes planes;
    size_t first;  // of pixel 0 of slot 0
    int slots;
  };
  int place(const Planes& planes, const int32_t* source) const;
  const int* places(const Planes& planes, const int32_t* slots, int count, bool* any);
  std::vector<Column> columns_of(const GivenGroup& given, const Planes& planes,
                                 std::vector<int>* order) const;
  void add_tile(const GivenGroup& given, const std::vector<int>& order, int begin, int end);

  Store store_;
  std::deque<Size> sizes_;  // whose elements stay where they are
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<Dense> dense_;
  size_t floats_ = 0;
  int features_ = 0;
  // The convolution that is being added.
  size_t first_ = 0;
  Convolution convolution_;
  std::vector<Tile> tiles_;
  std::vector<Group> groups_;
};

}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_NETWORK_H_
