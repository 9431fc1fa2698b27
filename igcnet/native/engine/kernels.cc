// All kernels for one width of vectors; compiled once for each.
#include "kernels.h"

#include "convolve.h"
#include "dense.h"
#include "maps.h"

#if !defined(IGCNET_BUILD)
#define IGCNET_BUILD kBaseline
#define IGCNET_BUILD_NAME "baseline"
#endif

namespace igcnet {
namespace engine {

extern const Kernels IGCNET_BUILD = {IGCNET_BUILD_NAME, by_columns, move, convolve, largest, mean, dense};

}  // namespace engine
}  // namespace igcnet
