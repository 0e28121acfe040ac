// Volume rendering, compiled with AVX2.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include "cpu/target_avx2.h"
#include "cpu/volume_parts.h"

namespace talk3d {
const VolumeKernels kVolumeAvx2 = {&render<Lanes8>, &differentiate<Lanes8>, &decode<Lanes8>, &draw_depths<Lanes8>,
                                   &march_samples<Lanes8>};
}

#include "cpu/target_end.h"
#endif
