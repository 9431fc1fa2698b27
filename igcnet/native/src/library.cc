// What the library is to MXNet and to Python, apart from its operators.
#include "operators.h"
#include "processor.h"

namespace igcnet {

const Kernels& kernels() {
  static const Kernels* const chosen = [] {
#if defined(__x86_64__)
    const int width = vector_width();
    if (width == 512) return &kAvx512;
    if (width == 256) return &kAvx2;
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
