// Which of the builds the processor can run.
#ifndef IGCNET_PROCESSOR_H_
#define IGCNET_PROCESSOR_H_

#include <stdlib.h>
#include <string.h>

namespace igcnet {

// Bits of the widest vectors there are kernels for; the environment variable IGCNET_NATIVE asks
// for less (avx2, baseline).
inline int vector_width() {
  const char* wish = getenv("IGCNET_NATIVE");
  const bool baseline = wish && !strcmp(wish, "baseline");
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (wide && !baseline && !(wish && !strcmp(wish, "avx2"))) return 512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !baseline) return 256;
#endif
  return 128;
}

}  // namespace igcnet
#endif  // IGCNET_PROCESSOR_H_
