// Tri-plane sampling, compiled with AVX2.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include "cpu/target_avx2.h"
#include "cpu/triplane_kernels.h"

namespace talk3d {
const TriplaneKernels kTriplaneAvx2 = {&sample<Lanes8>, &differentiate_points<Lanes8>, &scatter<Lanes8>};
}

#include "cpu/target_end.h"
#endif
