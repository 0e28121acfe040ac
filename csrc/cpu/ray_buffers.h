// What one ray's march remembers.
#pragma once

#include "cpu/volume.h"
#include "cpu/workspace.h"

namespace talk3d {
namespace {

// Scratch memory of one ray with N samples; rows of samples are padded to whole vectors.
struct RayBuffers {
  int stride;       // N padded
  float* t;         // [N] depths, as drawn: coarse, then fine
  float* raw;       // [N] raw densities, as drawn
  float* sorted;    // [N] depths in order
  float* ordered;   // [N] densities in order
  float* share;     // [N] how much of each sample's colour is seen, in order
  float* alpha;     // [N]
  float* weight;    // [N]
  float* through;   // [N] transmittance
  float* cdf;       // [N]
  float* u;         // [N]
  int32_t* order;   // [N] from sorted to drawn
  int32_t* seen;    // [N] places of the samples whose colour is seen
  int32_t* texel;   // [4 * planes, N] taps: index of the texel's first channel
  float* tap;       // [4 * planes, N] taps: weights
  float* features;  // [N, 32]
  float* hidden;    // [N, 64]
  float* picked;    // [seen, 64] their hidden activations
  float* color;     // [seen, 32] their output of the second layer

  RayBuffers(Workspace& space, int samples) {
    stride = pad(samples);
    for (float** row : {&t, &raw, &sorted, &ordered, &share, &alpha, &weight, &through, &cdf, &u})
      *row = space.take<float>(stride + kPadding);
    order = space.take<int32_t>(stride);
    seen = space.take<int32_t>(stride);
    texel = space.take<int32_t>(4 * Sampling::kMaxPlanes * stride);
    tap = space.take<float>(4 * Sampling::kMaxPlanes * stride);
    features = space.take<float>(stride * kChannels);
    hidden = space.take<float>(stride * kHidden);
    picked = space.take<float>(stride * kHidden);
    color = space.take<float>(stride * kChannels);
  }
};

}  // namespace
}  // namespace talk3d
