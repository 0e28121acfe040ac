// Resampling and activations, compiled with AVX-512.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include "cpu/target_avx512.h"

// apart, or they would be sorted
#include "cpu/resample_kernels.h"

namespace talk3d {
const ResampleKernelSet kResampleAvx512 = {resample_kernels<Lanes16, float>(), resample_kernels<Lanes16, Bf16>()};
}

#include "cpu/target_end.h"
#endif
