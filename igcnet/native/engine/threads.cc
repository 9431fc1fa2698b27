#include "threads.h"

namespace igcnet {
namespace engine {
namespace {

constexpr int kSpins = 2000;    // some 20 microseconds, then others may run
constexpr int kYields = 2000;   // then it is no short time any more

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

bool Patience::once() {
  if (turns_ < kSpins)
    pause();
  else
    std::this_thread::yield();
  return ++turns_ < kSpins + kYields;
}

void Barrier::wait() {
  if (threads_ == 1) return;
  const unsigned round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (Patience patience; round_.load(std::memory_order_acquire) == round;) patience.once();
}

Pool::Pool(int threads) : barrier_(threads) {
  for (int i = 1; i < threads; ++i) others_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
  run(nullptr);
  for (std::thread& other : others_) other.join();
}

void Pool::run(Job* job) {
  if (!others_.empty()) {
    std::lock_guard<std::mutex> lock(mutex_);
    job_.store(job, std::memory_order_relaxed);
    jobs_.fetch_add(1, std::memory_order_release);
    wake_.notify_all();
  }
  if (!job) return;
  job->work(0);
  barrier_.wait();
}

void Pool::serve(int thread) {
  for (unsigned done = 0;; ++done) {
    for (Patience patience; jobs_.load(std::memory_order_acquire) == done;) {
      if (patience.once()) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this, done] { return jobs_.load(std::memory_order_acquire) != done; });
    }
    Job* const job = job_.load(std::memory_order_relaxed);
    if (!job) return;
    job->work(thread);
    barrier_.wait();
  }
}

}  // namespace engine
}  // namespace igcnet
