// What the kernels of render_rays know about their tensors; talk3d/ops/volume.py has the contract.
#pragma once

#include <cstdint>
#include <vector>

#include "lanes.h"

namespace talk3d {

constexpr int kChannels = 32;  // of a plane, and of the rendered features
constexpr int kHidden = 64;    // width of the decoder
// the flat decoder: w0 [64, 32], b0 [64], w1 [33, 64], b1 [33], whose row 0 is density
constexpr int kDecoderSize = kHidden * kChannels + kHidden + (1 + kChannels) * kHidden + 1 + kChannels;

struct March {
  int coarse, fine;
  bool disparity, white_back, clamp_depth;
  float min_weight;
};

// settings: see talk3d/ops/volume.py
inline March march_of(const std::vector<double>& settings) {
  return {static_cast<int>(settings[2]),
          static_cast<int>(settings[3]),
          settings[4] != 0,
          settings[5] != 0,
          settings[6] != 0,
          static_cast<float>(settings[7])};
}

struct Rays {
  const float* rays;    // [B * R, 8]: origin, direction, near, far
  const float* jitter;  // [B * R, coarse] or null
  const float* u;       // [B * R, fine] or null
  int64_t rays_per_camera;
};

struct Image {
  float* features;       // [B * R, 32]
  float* depth;          // [B * R]
  float* weight;         // [B * R]
  float* depths;         // [B * R, coarse + fine]
  float* transmittance;  // [B * R, coarse + fine - 1]
};

// What the backward starts from.
struct Cotangents {
  const float* features;       // [B * R, 32]
  const float* depth;          // [B * R]
  const float* weight;         // [B * R]
  const float* depths;         // [B * R, N], sorted
  const float* transmittance;  // [B * R, N - 1]
};

// Depth of coarse sample `number`, `within` its stratum. Rounded as in the published code, step by step and without
// fused multiply-adds: across a surface, the last bit of a depth is felt in the fifth digit of a colour.
template <class F>
TALK3D_HD F stratum_depth(const March& march, F near, F far, F number, F within) {
  const F one(1.0f), strata(static_cast<float>(march.coarse - 1)), edge = number / strata;
  if (march.disparity) {
    const F fraction = edge + within * (one / strata);
    return one / (one / near * (one - fraction) + one / far * fraction);
  }
  return near + edge * (far - near) + within * ((far - near) / strata);
}

}  // namespace talk3d
