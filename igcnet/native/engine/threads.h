// Threads that work together for a few microseconds at a time, many times in a row.
#ifndef IGCNET_ENGINE_THREADS_H_
#define IGCNET_ENGINE_THREADS_H_

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace igcnet {
namespace engine {

// Waits for something that will soon be so, and lets others run if it is not.
class Patience {
 public:
  bool once();  // whether it is still a short time

 private:
  int turns_ = 0;
};

// Where all threads wait for the last.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait();

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
};

class Job {
 public:
  virtual ~Job() {}
  virtual void work(int thread) = 0;
};

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  void run(Job* job);  // by all threads, this one being number 0
  int threads() const { return static_cast<int>(others_.size()) + 1; }
  Barrier& barrier() { return barrier_; }

 private:
  void serve(int thread);
  Barrier barrier_;
  std::vector<std::thread> others_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> jobs_{0};
  std::atomic<Job*> job_{nullptr};
};

}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_THREADS_H_
