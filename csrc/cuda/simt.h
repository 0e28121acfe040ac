// What a warp can do beyond arithmetic. On the CPU the tests supply the same functions and 32 fibers for its threads
// (tests/csrc/emulated_simt.h), so that kernels run there as they stand.
#pragma once

#include "common/pairs.h"

#if defined(__CUDACC__)

#define TALK3D_DEVICE __device__ __forceinline__

namespace talk3d {

struct alignas(16) Quad {
  uint32_t x, y, z, w;
};
struct alignas(16) Floats4 {
  float x, y, z, w;
};

TALK3D_DEVICE void sync_warp() { __syncwarp(); }
TALK3D_DEVICE void sync_block() { __syncthreads(); }
template <class T>
TALK3D_DEVICE T shuffle(T value, int from) {
  return __shfl_sync(~0u, value, from);
}
template <class T>
TALK3D_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}
TALK3D_DEVICE bool any(bool value) { return __any_sync(~0u, value); }
TALK3D_DEVICE uint32_t min_of_warp(uint32_t value) { return __reduce_min_sync(~0u, value); }
TALK3D_DEVICE uint32_t max_of_warp(uint32_t value) { return __reduce_max_sync(~0u, value); }

// The same pointer to global memory, of which the compiler no longer knows that it is a sum, and does not take it apart
// again in a loop.
template <class T>
TALK3D_DEVICE T* whole(T* pointer) {
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

// 16 bytes that no thread writes while the kernel runs
TALK3D_DEVICE Quad load_quad(const Quad* from) {
  const uint4 found = __ldg(reinterpret_cast<const uint4*>(from));
  return {found.x, found.y, found.z, found.w};
}
TALK3D_DEVICE Floats4 load_floats(const float* from) {
  const float4 found = __ldg(reinterpret_cast<const float4*>(from));
  return {found.x, found.y, found.z, found.w};
}

// to[k] += value[k]
TALK3D_DEVICE void add_atomically(float* to, Floats4 value) {
#if __CUDA_ARCH__ >= 900  // one instruction
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(value.x, value.y, value.z, value.w));
#else
  atomicAdd(to, value.x);
  atomicAdd(to + 1, value.y);
  atomicAdd(to + 2, value.z);
  atomicAdd(to + 3, value.w);
#endif
}

TALK3D_DEVICE void add_atomically(float* to, float value) { atomicAdd(to, value); }
TALK3D_DEVICE void add_atomically(long long* to, long long value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
TALK3D_DEVICE void max_atomically(uint32_t* to, uint32_t value) { atomicMax(to, value); }
TALK3D_DEVICE long long nearest(float x) { return __float2ll_rn(x); }

// A matrix of 8 x 8 halves, of whose row lane / 4 a thread holds columns 2t and 2t + 1, transposed.
TALK3D_DEVICE Pair transpose(Pair a) {
  Pair found;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(found.bits) : "r"(a.bits));
  return found;
}

// Approximate functions of the special function unit, denormals as zero.
TALK3D_DEVICE float exp2_fast(float x) {  // 2 ulp
  float found;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(x));
  return found;
}
TALK3D_DEVICE float log2_fast(float x) {  // 2^-22 between 1 and 2
  float found;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(x));
  return found;
}
TALK3D_DEVICE float tanh_fast(float x) {  // 2^-11
  float found;
  asm("tanh.approx.f32 %0, %1;" : "=f"(found) : "f"(x));
  return found;
}
TALK3D_DEVICE float reciprocal_fast(float x) {  // 1 ulp
  float found;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(x));
  return found;
}
// a * b + c, kept within [0, 1]; 0 where it is not a number
TALK3D_DEVICE float fma_saturated(float a, float b, float c) {
  float found;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(found) : "f"(a), "f"(b), "f"(c));
  return found;
}
TALK3D_DEVICE float fma_down(float a, float b, float c) { return __fmaf_rd(a, b, c); }
TALK3D_DEVICE uint32_t bits_of(float a) { return __float_as_uint(a); }
TALK3D_DEVICE float float_of(uint32_t a) { return __uint_as_float(a); }

// c [16, 8] + a [16, 16] b [16, 8] in float32. With g = lane / 4 and t = lane % 4 a thread holds
//   a: row g, columns 2t and 2t + 1 | row g + 8, the same | row g, columns 2t + 8 and 2t + 9 | row g + 8, the same
//   b: rows 2t and 2t + 1, column g | rows 2t + 8 and 2t + 9, column g
//   c: row g, columns 2t and 2t + 1; row g + 8, the same
TALK3D_DEVICE Floats4 mma(Pair a0, Pair a1, Pair a2, Pair a3, uint32_t b0, uint32_t b1, Floats4 c) {
  Floats4 d;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
      : "r"(a0.bits), "r"(a1.bits), "r"(a2.bits), "r"(a3.bits), "r"(b0), "r"(b1), "f"(c.x), "f"(c.y), "f"(c.z),
        "f"(c.w));
  return d;
}

}  // namespace talk3d

#else
#include "emulated_simt.h"
#endif
