// Tri-plane sampling, compiled for any processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/triplane_kernels.h"

namespace talk3d {
const TriplaneKernels kTriplanePortable = {&sample<Lane>, &differentiate_points<Lane>, &scatter<Lane>};
}
