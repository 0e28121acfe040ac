// The 3 x 3 convolution, compiled with AVX2.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#if defined(__x86_64__)
#include "cpu/target_avx2.h"

// apart, or they would be sorted
#include "cpu/convolution_weights.h"

namespace talk3d {
const ConvolutionKernelSet kConvolutionAvx2 = {convolution_kernels<Lanes8, float>(),
                                               convolution_kernels<Lanes8, Bf16>()};
}

#include "cpu/target_end.h"
#endif
