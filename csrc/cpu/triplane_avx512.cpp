// Tri-plane sampling, compiled with AVX-512.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include "cpu/target_avx512.h"
#include "cpu/triplane_kernels.h"

namespace talk3d {
const TriplaneKernels kTriplaneAvx512 = {&sample<Lanes16>, &differentiate_points<Lanes16>, &scatter<Lanes16>};
}

#include "cpu/target_end.h"
#endif
