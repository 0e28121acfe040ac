// Volume rendering, compiled with AVX-512.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include "cpu/target_avx512.h"
#include "cpu/volume_parts.h"

namespace talk3d {
const VolumeKernels kVolumeAvx512 = {&render<Lanes16>, &differentiate<Lanes16>, &decode<Lanes16>, &draw_depths<Lanes16>,
                                     &march_samples<Lanes16>};
}

#include "cpu/target_end.h"
#endif
