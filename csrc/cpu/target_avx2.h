// From here to target_end.h the compiler may use AVX2 and FMA. Everything that is not ours is included before: a
// standard function compiled with these instructions could be the copy that an older processor gets to run.
#include <immintrin.h>

#define TALK3D_TARGET_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
#pragma GCC target("avx2,fma")
#endif
