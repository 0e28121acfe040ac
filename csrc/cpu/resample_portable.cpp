// Resampling and activations, compiled for any processor.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/resample_kernels.h"

namespace talk3d {
const ResampleKernelSet kResamplePortable = {resample_kernels<Lane, float>(), resample_kernels<Lane, Bf16>()};
}
