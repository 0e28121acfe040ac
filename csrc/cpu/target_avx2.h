// From here to target_end.h the compiler may use AVX2 and FMA. A function with external linkage that is compiled here
// could be the copy that the linker keeps for all, and that an older processor then runs. Hence standard headers are
// included before, and what is included in between stands in unnamed namespaces or is always inlined.
#include <immintrin.h>

#define TALK3D_TARGET_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
#pragma GCC target("avx2,fma")
#endif
