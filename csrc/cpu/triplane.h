// What the boxed operator hands to the kernels of one instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "common/sampling.h"

namespace talk3d {

// The texels of the planes' gradient that one thread owns, so that no two threads write to the same place. They go
// round in bands: most points have both rows of their cell in one of them, and a part of the planes that many points
// see keeps all threads busy.
struct Bands {
  std::vector<uint8_t> owned;  // whether, for every 2^shift texels, counted through all planes of all batches
  int shift = 11;              // 8 rows of 256

  Bands(int64_t owner, int64_t owners, int64_t texels);
};

// Points are addressed by their number in [0, B * M).
struct TriplaneKernels {
  void (*sample)(const Sampling&,
                 const float* planes,  // [1 or B, P, H, W, C]
                 const float* points,  // [B, M, 3]
                 float* features,      // [B, M, C], or [B, P, M, C] without mean
                 int64_t begin,
                 int64_t end);
  void (*differentiate_points)(const Sampling&,
                               const float* d_features,  // as features
                               const float* planes,
                               const float* points,
                               float* d_points,  // [B, M, 3]
                               int64_t begin,
                               int64_t end);
  void (*scatter)(const Sampling&,
                  const Bands&,
                  const float* d_features,
                  const float* points,
                  float* d_planes);  // [1 or B, P, H, W, C], added to
};

extern const TriplaneKernels kTriplanePortable, kTriplaneAvx2, kTriplaneAvx512;
const TriplaneKernels& triplane_kernels();  // those of the instruction set in use

}  // namespace talk3d
