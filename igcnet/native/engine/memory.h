// Memory in large pages: planes are far apart, so that small ones would be looked up all the time.
#ifndef IGCNET_ENGINE_MEMORY_H_
#define IGCNET_ENGINE_MEMORY_H_

#include <stddef.h>
#include <string.h>

#include <vector>

namespace igcnet {
namespace engine {

// Zeros, at a multiple of a large page.
class Memory {
 public:
  explicit Memory(size_t bytes);  // throws std::bad_alloc
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* begin() const { return begin_; }

 private:
  char* begin_;
  size_t size_;
};

// What a program is made of, side by side in the order in which it is needed.
class Store {
 public:
  ~Store() {
    for (Memory* part : parts_) delete part;
  }
  template <typename T>
  T* make(size_t count) {
    return static_cast<T*>(bytes(count * sizeof(T), alignof(T)));
  }
  template <typename T>
  const T* copy(const T* from, size_t count) {
    T* to = make<T>(count);
    if (count) memcpy(to, from, count * sizeof(T));
    return to;
  }

 private:
  void* bytes(size_t count, size_t alignment);
  std::vector<Memory*> parts_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace engine
}  // namespace igcnet
#endif  // IGCNET_ENGINE_MEMORY_H_
