// Lane types: the same arithmetic on one float, on 8 (AVX2), or on 16 (AVX-512).
//
// Device math is written once, as functions templated on a lane type. One float is the portable fallback on the CPU and
// what CUDA runs, so that the tests of the CPU kernels cover it. A translation unit that wants vectors includes this
// file between cpu/target_*.h, which tell the compiler that the instructions may be used.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TALK3D_HD __host__ __device__ __forceinline__
#else
#define TALK3D_HD inline __attribute__((always_inline))
#endif

namespace talk3d {

// Added to a number below 2^22, it leaves no room for a fraction: the sum holds the nearest whole number in its last
// bits.
constexpr float kShift = 12582912.0f;  // 1.5 * 2^23

// A number of eight bits of mantissa: the upper half of a float. Lanes load and store it, and never compute with it.
struct Bf16 {
  uint16_t bits;
};

// min and max return the second operand where one is NaN, as the vector instructions do: max(x, low) cleans a NaN,
// max(low, x) keeps it.
struct Lane {
  static constexpr int width = 1;
  using Int = int32_t;
  using Mask = bool;
  float v;

  Lane() = default;
  TALK3D_HD Lane(float value) : v(value) {}
  TALK3D_HD static Lane load(const float* from) { return *from; }
  TALK3D_HD static Lane load(const Bf16* from) {
    const uint32_t bits = uint32_t(from->bits) << 16;
    Lane a;
    memcpy(&a.v, &bits, sizeof bits);
    return a;
  }
  TALK3D_HD void store(float* to) const { *to = v; }
  TALK3D_HD void store(Bf16* to) const {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    // to the nearest, ties to even; the addition would carry some NaNs to infinity
    to->bits = v == v ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
  }
  TALK3D_HD static Lane ramp(float first) { return first; }
  TALK3D_HD static void store(int32_t* to, Int value) { *to = value; }
};

TALK3D_HD Lane operator+(Lane a, Lane b) { return a.v + b.v; }
TALK3D_HD Lane operator-(Lane a, Lane b) { return a.v - b.v; }
TALK3D_HD Lane operator*(Lane a, Lane b) { return a.v * b.v; }
TALK3D_HD Lane operator/(Lane a, Lane b) { return a.v / b.v; }
TALK3D_HD Lane fma(Lane a, Lane b, Lane c) {
#if defined(__CUDA_ARCH__) || defined(FP_FAST_FMAF)
  return fmaf(a.v, b.v, c.v);
#else
  return a.v * b.v + c.v;  // a processor without the instruction would emulate it, a hundred times slower
#endif
}
TALK3D_HD Lane min(Lane a, Lane b) { return a.v < b.v ? a.v : b.v; }
TALK3D_HD Lane max(Lane a, Lane b) { return a.v > b.v ? a.v : b.v; }
TALK3D_HD Lane minus_abs(Lane a) { return -fabsf(a.v); }
TALK3D_HD Lane floor(Lane a) { return floorf(a.v); }
TALK3D_HD Lane reciprocal(Lane a) { return 1.0f / a.v; }
TALK3D_HD bool less(Lane a, Lane b) { return a.v < b.v; }
TALK3D_HD Lane select(bool mask, Lane yes, Lane no) { return mask ? yes : no; }
TALK3D_HD int32_t to_int(Lane a) { return static_cast<int32_t>(a.v); }
TALK3D_HD float sum(Lane a) { return a.v; }
// a * 2^n, where the whole number n stands in the last bits of `shifted` = n + kShift; the result must be normal.
TALK3D_HD Lane scale_by_power(Lane a, Lane shifted) {
  uint32_t bits, n;
  memcpy(&bits, &a.v, sizeof bits);
  memcpy(&n, &shifted.v, sizeof n);
  bits += n << 23;
  memcpy(&a.v, &bits, sizeof bits);
  return a;
}

#if defined(TALK3D_TARGET_AVX2)

struct Lanes8 {
  static constexpr int width = 8;
  using Int = __m256i;
  using Mask = __m256;
  __m256 v;

  Lanes8() = default;
  TALK3D_HD Lanes8(__m256 value) : v(value) {}
  TALK3D_HD Lanes8(float value) : v(_mm256_set1_ps(value)) {}
  TALK3D_HD static Lanes8 load(const float* from) { return _mm256_loadu_ps(from); }
  TALK3D_HD static Lanes8 load(const Bf16* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  TALK3D_HD void store(float* to) const { _mm256_storeu_ps(to, v); }
  TALK3D_HD void store(Bf16* to) const {
    const __m256i bits = _mm256_castps_si256(v), upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i found = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), is_nan);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
  }
  TALK3D_HD static Lanes8 ramp(float first) {
    return _mm256_add_ps(_mm256_set1_ps(first), _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7));
  }
  TALK3D_HD static void store(int32_t* to, Int value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
};

TALK3D_HD Lanes8 operator+(Lanes8 a, Lanes8 b) { return _mm256_add_ps(a.v, b.v); }
TALK3D_HD Lanes8 operator-(Lanes8 a, Lanes8 b) { return _mm256_sub_ps(a.v, b.v); }
TALK3D_HD Lanes8 operator*(Lanes8 a, Lanes8 b) { return _mm256_mul_ps(a.v, b.v); }
TALK3D_HD Lanes8 operator/(Lanes8 a, Lanes8 b) { return _mm256_div_ps(a.v, b.v); }
TALK3D_HD Lanes8 fma(Lanes8 a, Lanes8 b, Lanes8 c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
TALK3D_HD Lanes8 min(Lanes8 a, Lanes8 b) { return _mm256_min_ps(a.v, b.v); }
TALK3D_HD Lanes8 max(Lanes8 a, Lanes8 b) { return _mm256_max_ps(a.v, b.v); }
TALK3D_HD Lanes8 minus_abs(Lanes8 a) { return _mm256_or_ps(_mm256_set1_ps(-0.0f), a.v); }
TALK3D_HD Lanes8 floor(Lanes8 a) { return _mm256_floor_ps(a.v); }
TALK3D_HD Lanes8 reciprocal(Lanes8 a) { return _mm256_div_ps(_mm256_set1_ps(1.0f), a.v); }
TALK3D_HD __m256 less(Lanes8 a, Lanes8 b) { return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ); }
TALK3D_HD Lanes8 select(__m256 mask, Lanes8 yes, Lanes8 no) { return _mm256_blendv_ps(no.v, yes.v, mask); }
TALK3D_HD __m256i to_int(Lanes8 a) { return _mm256_cvttps_epi32(a.v); }
TALK3D_HD float sum(Lanes8 a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
TALK3D_HD Lanes8 scale_by_power(Lanes8 a, Lanes8 shifted) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), n));
}

#endif

#if defined(TALK3D_TARGET_AVX512)

struct Lanes16 {
  static constexpr int width = 16;
  using Int = __m512i;
  using Mask = __mmask16;
  __m512 v;

  Lanes16() = default;
  TALK3D_HD Lanes16(__m512 value) : v(value) {}
  TALK3D_HD Lanes16(float value) : v(_mm512_set1_ps(value)) {}
  TALK3D_HD static Lanes16 load(const float* from) { return _mm512_loadu_ps(from); }
  TALK3D_HD static Lanes16 load(const Bf16* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  TALK3D_HD void store(float* to) const { _mm512_storeu_ps(to, v); }
  TALK3D_HD void store(Bf16* to) const {
    const __m512i bits = _mm512_castps_si512(v), upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i found = _mm512_mask_set1_epi32(_mm512_srli_epi32(sum, 16), is_nan, 0x7fc0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(found));
  }
  TALK3D_HD static Lanes16 ramp(float first) {
    return _mm512_add_ps(_mm512_set1_ps(first), _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }
  TALK3D_HD static void store(int32_t* to, Int value) { _mm512_storeu_si512(to, value); }
};

TALK3D_HD Lanes16 operator+(Lanes16 a, Lanes16 b) { return _mm512_add_ps(a.v, b.v); }
TALK3D_HD Lanes16 operator-(Lanes16 a, Lanes16 b) { return _mm512_sub_ps(a.v, b.v); }
TALK3D_HD Lanes16 operator*(Lanes16 a, Lanes16 b) { return _mm512_mul_ps(a.v, b.v); }
TALK3D_HD Lanes16 operator/(Lanes16 a, Lanes16 b) { return _mm512_div_ps(a.v, b.v); }
TALK3D_HD Lanes16 fma(Lanes16 a, Lanes16 b, Lanes16 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
TALK3D_HD Lanes16 min(Lanes16 a, Lanes16 b) { return _mm512_min_ps(a.v, b.v); }
TALK3D_HD Lanes16 max(Lanes16 a, Lanes16 b) { return _mm512_max_ps(a.v, b.v); }
TALK3D_HD Lanes16 minus_abs(Lanes16 a) { return _mm512_or_ps(_mm512_set1_ps(-0.0f), a.v); }
TALK3D_HD Lanes16 floor(Lanes16 a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
// 14 bits from the instruction, 24 after one step of Newton's; a division would take four times as long
TALK3D_HD Lanes16 reciprocal(Lanes16 a) {
  const __m512 guess = _mm512_rcp14_ps(a.v);
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(a.v, guess, _mm512_set1_ps(1.0f)), guess, guess);
}
TALK3D_HD __mmask16 less(Lanes16 a, Lanes16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
TALK3D_HD Lanes16 select(__mmask16 mask, Lanes16 yes, Lanes16 no) { return _mm512_mask_blend_ps(mask, no.v, yes.v); }
TALK3D_HD __m512i to_int(Lanes16 a) { return _mm512_cvttps_epi32(a.v); }
TALK3D_HD float sum(Lanes16 a) { return _mm512_reduce_add_ps(a.v); }
TALK3D_HD Lanes16 scale_by_power(Lanes16 a, Lanes16 shifted) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), n));
}

#endif

}  // namespace talk3d
