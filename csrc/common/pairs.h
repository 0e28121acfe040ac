// Two numbers of 16 bits in one register, as the tensor cores and the packed instructions of a GPU take them. On the
// CPU the same functions compute with _Float16, for the tests.
#pragma once

#include "lanes.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace talk3d {

struct Pair {
  uint32_t bits;
};

#if defined(__CUDA_ARCH__)

TALK3D_HD __half2 as_half2(Pair a) { return *reinterpret_cast<__half2*>(&a.bits); }
TALK3D_HD Pair as_pair(__half2 a) { return {*reinterpret_cast<uint32_t*>(&a)}; }

TALK3D_HD Pair pack(float low, float high) { return as_pair(__floats2half2_rn(low, high)); }
// negative numbers become 0; what is not a number stays so, which max would lose
TALK3D_HD Pair pack_positive(float low, float high) {
  Pair found;
  asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(found.bits) : "f"(high), "f"(low));
  return found;
}
TALK3D_HD float low(Pair a) { return __low2float(as_half2(a)); }
TALK3D_HD float high(Pair a) { return __high2float(as_half2(a)); }
TALK3D_HD Pair low_twice(Pair a) { return as_pair(__low2half2(as_half2(a))); }
TALK3D_HD Pair high_twice(Pair a) { return as_pair(__high2half2(as_half2(a))); }
TALK3D_HD Pair fma(Pair a, Pair b, Pair c) { return as_pair(__hfma2(as_half2(a), as_half2(b), as_half2(c))); }
TALK3D_HD Pair operator*(Pair a, Pair b) { return as_pair(__hmul2(as_half2(a), as_half2(b))); }
TALK3D_HD Pair operator+(Pair a, Pair b) { return as_pair(__hadd2(as_half2(a), as_half2(b))); }
TALK3D_HD Pair operator-(Pair a, Pair b) { return as_pair(__hsub2(as_half2(a), as_half2(b))); }
// 1 at 0, falling to 0 at a distance of 1
TALK3D_HD Pair hat(Pair x) { return as_pair(__hsub2_sat(__float2half2_rn(1.0f), __habs2(as_half2(x)))); }

#elif defined(__FLT16_MAX__)

TALK3D_HD float low(Pair a) {
  _Float16 number;
  memcpy(&number, &a.bits, 2);
  return static_cast<float>(number);
}
TALK3D_HD float high(Pair a) { return low({a.bits >> 16}); }
TALK3D_HD Pair pack(float low, float high) {
  const _Float16 numbers[2] = {static_cast<_Float16>(low), static_cast<_Float16>(high)};
  Pair found;
  memcpy(&found.bits, numbers, 4);
  return found;
}
TALK3D_HD Pair pack_positive(float low, float high) { return pack(low < 0.0f ? 0.0f : low, high < 0.0f ? 0.0f : high); }
TALK3D_HD Pair low_twice(Pair a) { return {(a.bits & 0xffff) * 0x10001u}; }
TALK3D_HD Pair high_twice(Pair a) { return {(a.bits >> 16) * 0x10001u}; }
// the product of two halves is exact in a float, and their sum is rounded twice at worst in the last bit of a float
TALK3D_HD Pair fma(Pair a, Pair b, Pair c) {
  return pack(fmaf(low(a), low(b), low(c)), fmaf(high(a), high(b), high(c)));
}
TALK3D_HD Pair operator*(Pair a, Pair b) { return pack(low(a) * low(b), high(a) * high(b)); }
TALK3D_HD Pair operator+(Pair a, Pair b) { return pack(low(a) + low(b), high(a) + high(b)); }
TALK3D_HD Pair operator-(Pair a, Pair b) { return pack(low(a) - low(b), high(a) - high(b)); }
TALK3D_HD Pair hat(Pair x) { return pack_positive(1.0f - std::fabs(low(x)), 1.0f - std::fabs(high(x))); }

#endif

TALK3D_HD Pair twice(float a) { return pack(a, a); }

}  // namespace talk3d
