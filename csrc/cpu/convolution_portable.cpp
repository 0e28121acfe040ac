// The 3 x 3 convolution, compiled for any processor.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#include "cpu/convolution_weights.h"

namespace talk3d {
const ConvolutionKernelSet kConvolutionPortable = {convolution_kernels<Lane, float>(),
                                                   convolution_kernels<Lane, Bf16>()};
}
