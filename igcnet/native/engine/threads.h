// Threads that share steps of a few microseconds, many in a row.
//
// A step is cut into as many parts as there are threads. Each thread takes its own part first, and
// then those that nobody has begun: a thread that the system lets wait, on a machine with other
// work, is waited for only where it has begun something.
#ifndef IGCNET_ENGINE_THREADS_H_
#define IGCNET_ENGINE_THREADS_H_

#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace igcnet {
namespace engine {

// Waits for something that will soon be so: first without giving the processor away.
class Patience {
 public:
  bool short_time() const { return turns_ < kShort; }
  void once();

 private:
  static constexpr int kSpins = 2000;  // some 20 microseconds
  static constexpr int kShort = kSpins + 50;
  int turns_ = 0;
};

// The parts of one step, up to 64.
class Parts {
 public:
  // The next part for a thread, or -1 if all have been taken.
  int take(int thread, int count) {
    for (int i = 0; i < count; ++i) {
      const int part = (thread + i) % count;
      const uint64_t bit = uint64_t{1} << part;
      if (!(taken_.load(std::memory_order_relaxed) & bit) &&
          !(taken_.fetch_or(bit, std::memory_order_relaxed) & bit))
        return part;
    }
    return -1;
  }
  void done() { done_.fetch_add(1, std::memory_order_release); }
  void wait(int count) const {
    for (Patience patience; done_.load(std::memory_order_acquire) < count;) patience.once();
  }

 private:
  std::atomic<uint64_t> taken_{0};
  std::atomic<int> done_{0};
};

class Job {
 public:
  virtual ~Job() {}
  virtual void work(int thread) = 0;  // returns when all is done, whichever thread did it
};

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  // By all threads, this one being number 0. The others may still look at the job behind its end.
  void run(const std::shared_ptr<Job>& job);

 private:
  void serve(int thread);
  void announce(const std::shared_ptr<Job>& job, bool last);
  std::vector<std::thread> others_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;
  bool last_ = false;
  std::atomic<unsigned> jobs_{0};
};

}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_THREADS_H_
