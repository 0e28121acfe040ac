// Resampling and activations, compiled with AVX2.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include "cpu/target_avx2.h"

// apart, or they would be sorted
#include "cpu/resample_kernels.h"

namespace talk3d {
const ResampleKernelSet kResampleAvx2 = {resample_kernels<Lanes8, float>(), resample_kernels<Lanes8, Bf16>()};
}

#include "cpu/target_end.h"
#endif
