// Planes into the layout of the kernels of render_rays.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/packing.h"

namespace talk3d {

constexpr int kPackThreads = 256;
constexpr int kGroups = 4;  // threads of a texel, 8 channels each

template <class T>
struct alignas(16) Eight {
  T at[8];
};

__device__ inline float as_float(float x) { return x; }
__device__ inline float as_float(__half x) { return __half2float(x); }
__device__ inline float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void from_float(float x, float& to) { to = x; }
__device__ inline void from_float(float x, __half& to) { to = __float2half_rn(x); }
__device__ inline void from_float(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }

// Sums are rounded once. As a half a number beyond 65504 becomes infinite, and what it is seen through is not a number.
template <class T, class To>
__global__ void __launch_bounds__(kPackThreads) pack_planes_kernel(const __grid_constant__ Packing packing,
                                                                   int64_t sets,
                                                                   const T* __restrict__ from,  // [S, P, H, W, 32]
                                                                   To* __restrict__ to) {
  const int64_t at = int64_t(blockIdx.x) * kPackThreads + threadIdx.x, texel = at / kGroups;
  const int64_t texels = packing.planes * packing.texels();
  if (texel >= sets * texels) return;
  const T* set = from + texel / texels * packing.given * packing.size * int64_t(packing.size) * (8 * kGroups);
  float sums[8] = {};
  packing.gather(texel % texels, [&](int64_t source) {
    const auto found = *reinterpret_cast<const Eight<T>*>(set + (source * kGroups + at % kGroups) * 8);
    for (int c = 0; c < 8; ++c) sums[c] += as_float(found.at[c]);
  });
  Eight<To> packed;
  for (int c = 0; c < 8; ++c) from_float(sums[c], packed.at[c]);
  *reinterpret_cast<Eight<To>*>(to + at * 8) = packed;
}

// The gradient of the planes as they came, from that of the packed ones.
template <class T>
__global__ void __launch_bounds__(kPackThreads)
    unpack_gradient_kernel(const __grid_constant__ Packing packing,
                           int64_t sets,
                           const float* __restrict__ from,  // [S, 2 or 3, H + 2, W + 2, 32]
                           T* __restrict__ to) {            // [S, P, H, W, 32]
  const int64_t at = int64_t(blockIdx.x) * kPackThreads + threadIdx.x, texel = at / kGroups;
  const int64_t texels = packing.given * int64_t(packing.size) * packing.size;
  if (texel >= sets * texels) return;
  const int64_t source = texel / texels * packing.planes * packing.texels() + packing.packed_texel(texel % texels);
  const float* channels = from + (source * kGroups + at % kGroups) * 8;
  Eight<T> found;
  for (int c = 0; c < 8; ++c) from_float(channels[c], found.at[c]);
  *reinterpret_cast<Eight<T>*>(to + at * 8) = found;
}

}  // namespace talk3d
