// What the library is to MXNet and to Python, apart from its operators.
#include <stdlib.h>

#include "operators.h"

namespace igcnet {

const Kernels& kernels() {
  static const Kernels* const chosen = [] {
    const char* wish = getenv("IGCNET_NATIVE");
    const std::string name = wish ? wish : "";
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    if (wide && name != "avx2" && name != "baseline") return &kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && name != "baseline")
      return &kAvx2;
#endif
    return &kBaseline;
  }();
  return *chosen;
}

}  // namespace igcnet

mxnet::ext::MXReturnValue initialize(int version) {
  if (version >= 10700) return mxnet::ext::MX_SUCCESS;
  return igcnet::wrong("MXNet 1.7 or newer is needed");
}

#if !defined(IGCNET_FINGERPRINT)
#define IGCNET_FINGERPRINT "unknown"
#endif

extern "C" {
const char* igcnet_fingerprint() { return IGCNET_FINGERPRINT; }
const char* igcnet_kernels() { return igcnet::kernels().name; }
double igcnet_multiply_adds(long rounds) { return igcnet::kernels().multiply_adds(rounds); }
}
