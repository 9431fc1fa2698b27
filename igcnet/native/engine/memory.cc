#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <new>

namespace igcnet {
namespace engine {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kLine = 64;

}  // namespace

Memory::Memory(size_t bytes) : begin_(nullptr), size_(bytes) {
  void* found = nullptr;
  size_ = (size_ + kLargePage - 1) / kLargePage * kLargePage;
  if (posix_memalign(&found, kLargePage, size_)) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(found, size_, MADV_HUGEPAGE);
#endif
  memset(found, 0, size_);
  begin_ = static_cast<char*>(found);
}

Memory::~Memory() { free(begin_); }

void* Store::bytes(size_t count, size_t alignment) {
  if (count >= 4 * kLine) alignment = kLine;
  size_t gap = -reinterpret_cast<uintptr_t>(next_) % alignment;
  if (gap + count > left_) {
    parts_.reserve(parts_.size() + 1);
    const size_t size = count > 2 * kLargePage ? count : 2 * kLargePage;
    parts_.push_back(new Memory(size));
    next_ = parts_.back()->begin();
    left_ = size;
    gap = 0;
  }
  void* found = next_ + gap;
  next_ += gap + count;
  left_ -= gap + count;
  return found;
}

}  // namespace engine
}  // namespace igcnet
