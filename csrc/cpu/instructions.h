// Which instruction set the kernels run on.
#pragma once

#include <cstdlib>

namespace talk3d {

// Lanes of the widest vectors that this processor has: 16 with AVX-512, 8 with AVX2, otherwise 1. The environment
// variable TALK3D_LANES lowers it, for tests.
inline int lanes() {
  int widest = 1;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) widest = 8;
  if (widest == 8 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    widest = 16;
#endif
  const char* wanted = std::getenv("TALK3D_LANES");
  const int limit = wanted ? std::atoi(wanted) : widest;
  if (widest == 16 && limit >= 16) return 16;
  return widest >= 8 && limit >= 8 ? 8 : 1;
}

}  // namespace talk3d
