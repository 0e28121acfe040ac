// The 3 x 3 convolution, compiled with AVX-512.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#if defined(__x86_64__)
#include "cpu/target_avx512.h"

// apart, or they would be sorted
#include "cpu/convolution_weights.h"

namespace talk3d {
const ConvolutionKernelSet kConvolutionAvx512 = {convolution_kernels<Lanes16, float>(),
                                                 convolution_kernels<Lanes16, Bf16>()};
}

#include "cpu/target_end.h"
#endif
