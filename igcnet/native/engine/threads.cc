#include "threads.h"

#include <chrono>
#include <system_error>

namespace igcnet {
namespace engine {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void Patience::once() {
  if (turns_ < kSpins)
    pause();
  else if (short_time())
    std::this_thread::yield();
  else
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  ++turns_;
}

Pool::Pool(int threads) {
  others_.reserve(threads);
  try {
    for (int i = 1; i < threads; ++i) others_.emplace_back([this, i] { serve(i); });
  } catch (const std::system_error&) {
    // The system gives no more of them; those there are take all parts.
  }
}

Pool::~Pool() {
  announce(nullptr, true);
  for (std::thread& other : others_) other.join();
}

void Pool::announce(const std::shared_ptr<Job>& job, bool last) {
  if (others_.empty()) return;
  std::lock_guard<std::mutex> lock(mutex_);
  job_ = job;
  last_ = last;
  jobs_.fetch_add(1, std::memory_order_release);
  wake_.notify_all();
}

void Pool::run(const std::shared_ptr<Job>& job) {
  announce(job, false);
  job->work(0);
  if (others_.empty()) return;
  std::lock_guard<std::mutex> lock(mutex_);
  job_ = nullptr;  // who comes late finds nothing
}

void Pool::serve(int thread) {
  for (unsigned seen = 0;;) {
    for (Patience patience; patience.short_time() &&
         jobs_.load(std::memory_order_acquire) == seen;)
      patience.once();
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return jobs_.load(std::memory_order_relaxed) != seen; });
      seen = jobs_.load(std::memory_order_relaxed);
      if (last_) return;
      job = job_;
    }
    if (job) job->work(thread);
  }
}

}  // namespace engine
}  // namespace igcnet
