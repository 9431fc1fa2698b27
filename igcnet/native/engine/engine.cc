// The engine's interface for ctypes, and how the images of a batch are shared among the threads.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "../src/processor.h"
#include "network.h"
#include "threads.h"

namespace igcnet {
namespace engine {
namespace {

const Kernels& chosen() {
#if defined(__x86_64__)
  const int width = vector_width();
  if (width == 512) return kAvx512;
  if (width == 256) return kAvx2;
#endif
  return kBaseline;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class Engine {
 public:
  Engine(int threads, int channels, int height, int width, int classes)
      : network(chosen(), channels, height, width, classes), threads_(threads) {}
  ~Engine() { stop_threads(); }

  void run(int images, const float* pixels, float* logits);
  void timed(bool wanted) {
    std::lock_guard<std::mutex> lock(one_at_a_time_);
    times_.assign(wanted ? network.steps().size() + network.dense().size() : 0, 0);
  }
  void times(double* to) {
    std::lock_guard<std::mutex> lock(one_at_a_time_);
    if (!times_.empty()) memcpy(to, times_.data(), times_.size() * sizeof(double));
  }

  Network network;

 private:
  friend class Batch;
  void prepare(int images);
  void stop_threads();

  const int threads_;
  std::mutex one_at_a_time_;
  std::unique_ptr<Pool> pool_;
  pid_t process_ = 0;
  std::vector<std::unique_ptr<Memory>> planes_;
  std::vector<std::vector<float>> vectors_;  // what each dense layer reads, and the last writes
  std::vector<double> times_;                // of each step, empty if they are not wanted
};

// Steps after each other, with a clock between them for the first thread.
class Clock {
 public:
  Clock(std::vector<double>* times, int thread) : times_(thread || times->empty() ? nullptr : times) {
    if (times_) last_ = now();
  }
  void step(size_t number) {
    if (!times_) return;
    const double time = now();
    (*times_)[number] += time - last_;
    last_ = time;
  }

 private:
  std::vector<double>* times_;
  double last_ = 0;
};

int padded(int count) { return (count + kDenseBlock - 1) / kDenseBlock * kDenseBlock; }

// Nothing but what a thread has taken a part of may be touched: the others may be late, and the
// engine at the next batch.
class Batch : public Job {
 public:
  Batch(Engine* engine, int images, const float* pixels)
      : engine_(engine), network_(engine->network), images_(images), pixels_(pixels),
        alone_(images / engine->threads_ * engine->threads_),
        shared_((images - alone_) * network_.steps().size() + network_.dense().size()) {}

  // Each thread computes whole images as long as there is one for every thread; the rest they
  // compute together, and the dense layers of all images.
  void work(int thread) override {
    Clock clock(&engine_->times_, thread);
    for (int image; (image = next_.fetch_add(1)) < alone_;) {
      const Place place = place_of(image, thread);
      for (size_t i = 0; i < network_.steps().size(); ++i) {
        network_.steps()[i]->run(network_.kernels, place, {0, 1});
        clock.step(i);
      }
      computed_.fetch_add(1, std::memory_order_release);
    }
    for (Patience patience; computed_.load(std::memory_order_acquire) < alone_;) patience.once();
    Parts* parts = shared_.data();
    for (int image = alone_; image < images_; ++image)
      for (size_t i = 0; i < network_.steps().size(); ++i) {
        together(thread, parts++, [&](Part part) {
          network_.steps()[i]->run(network_.kernels, place_of(image, 0), part);
        });
        clock.step(i);
      }
    for (size_t i = 0; i < network_.dense().size(); ++i) {
      together(thread, parts++, [&](Part part) { dense(i, part); });
      clock.step(network_.steps().size() + i);
    }
  }

 private:
  template <typename Function>
  void together(int thread, Parts* parts, Function function) {
    const int count = engine_->threads_;
    for (int number; (number = parts->take(thread, count)) >= 0; parts->done())
      function(Part{number, count});
    parts->wait(count);
  }

  void dense(size_t i, Part part) const {
    const Dense& dense = network_.dense()[i];
    network_.kernels.dense(dense, images_, engine_->vectors_[i].data(), padded(dense.inputs),
                           engine_->vectors_[i + 1].data(), padded(dense.outputs), part);
  }

  Place place_of(int image, int thread) const {
    const size_t size = static_cast<size_t>(network_.channels) * network_.height * network_.width;
    return {pixels_ + image * size,
            reinterpret_cast<float*>(engine_->planes_[thread]->begin()),
            engine_->vectors_[0].data() + static_cast<size_t>(image) * padded(network_.features())};
  }

  Engine* const engine_;
  const Network& network_;
  const int images_;
  const float* const pixels_;
  const int alone_;
  std::vector<Parts> shared_;  // of the steps that threads share
  std::atomic<int> next_{0}, computed_{0};
};

void Engine::stop_threads() {
  // A child process has none of its parent's threads and cannot wait for them.
  if (process_ == getpid())
    pool_.reset();
  else
    pool_.release();
}

void Engine::prepare(int images) {
  if (process_ != getpid()) stop_threads();
  if (!pool_) {
    pool_.reset(new Pool(threads_));
    process_ = getpid();
  }
  const size_t wanted = images >= threads_ ? threads_ : 1;
  while (planes_.size() < wanted)
    planes_.emplace_back(new Memory(network.floats() * sizeof(float)));
  vectors_.resize(network.dense().size() + 1);
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const int width = i ? network.dense()[i - 1].outputs : network.features();
    if (vectors_[i].size() < static_cast<size_t>(images) * padded(width))
      vectors_[i].resize(static_cast<size_t>(images) * padded(width));
  }
}

void Engine::run(int images, const float* pixels, float* logits) {
  std::lock_guard<std::mutex> lock(one_at_a_time_);
  prepare(images);
  pool_->run(std::make_shared<Batch>(this, images, pixels));
  for (int i = 0; i < images; ++i)
    memcpy(logits + static_cast<size_t>(i) * network.classes,
           vectors_.back().data() + static_cast<size_t>(i) * padded(network.classes),
           network.classes * sizeof(float));
}

// Calls what may run out of memory.
template <typename Function>
int attempt(Function function) {
  try {
    function();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace
}  // namespace engine
}  // namespace igcnet

#if !defined(IGCNET_FINGERPRINT)
#define IGCNET_FINGERPRINT "unknown"
#endif

using igcnet::engine::Engine;
using igcnet::engine::GivenGroup;
using igcnet::engine::attempt;

// All but the first three return 0, or 1 where memory does not suffice.
extern "C" {
const char* igcnet_fingerprint() { return IGCNET_FINGERPRINT; }
const char* igcnet_engine_kernels() { return igcnet::engine::chosen().name; }
Engine* igcnet_engine_new(int threads, int channels, int height, int width, int classes) {
  return new (std::nothrow) Engine(threads, channels, height, width, classes);
}
void igcnet_engine_delete(Engine* engine) { delete engine; }
int igcnet_engine_size(Engine* engine, int height, int width, int gap, int slots) {
  return attempt([=] { engine->network.add_size(height, width, gap, slots); });
}
int igcnet_engine_move(Engine* engine, int source, int size, int stride, int count,
                       const int32_t* table) {
  return attempt([=] { engine->network.add_move(source, size, stride, count, table); });
}
int igcnet_engine_convolution(Engine* engine, int size, int sigmoid, float low, float high,
                              int count, const GivenGroup* groups) {
  return attempt([=] {
    engine->network.begin_convolution(size, sigmoid, low, high);
    for (int i = 0; i < count; ++i) engine->network.add_group(groups[i]);
    engine->network.end_convolution();
  });
}
int igcnet_engine_largest(Engine* engine, int size, int count, int sources, const int32_t* source,
                          const int32_t* out) {
  return attempt([=] { engine->network.add_largest(size, count, sources, source, out); });
}
int igcnet_engine_mean(Engine* engine, int size, int count, const int32_t* slots) {
  return attempt([=] { engine->network.add_mean(size, count, slots); });
}
int igcnet_engine_dense(Engine* engine, int outputs, int inputs, const float* weight,
                        const float* bias, float low, float high) {
  return attempt([=] { engine->network.add_dense(outputs, inputs, weight, bias, low, high); });
}
int igcnet_engine_run(Engine* engine, int images, const float* pixels, float* logits) {
  return attempt([=] { engine->run(images, pixels, logits); });
}
// Whether seconds of each step are added up from now on.
int igcnet_engine_timed(Engine* engine, int wanted) {
  return attempt([=] { engine->timed(wanted); });
}
void igcnet_engine_times(Engine* engine, double* times) { engine->times(times); }
}
