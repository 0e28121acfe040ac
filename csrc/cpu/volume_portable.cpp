// Volume rendering, compiled for any processor.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#include "cpu/volume_parts.h"

namespace talk3d {
const VolumeKernels kVolumePortable = {&render<Lane>, &differentiate<Lane>, &decode<Lane>, &draw_depths<Lane>,
                                       &march_samples<Lane>};
}
