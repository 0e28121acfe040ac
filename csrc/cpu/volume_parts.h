// The steps of volume rendering, one by one, for the tests: they call what the renderer calls.
#pragma once

#include "cpu/volume_backward.h"

namespace talk3d {
namespace {

// features [rows, 32] to raw densities [rows] and colours [rows, 32]
template <class F>
void decode(const Decoder& decoder, const float* features, int64_t rows, float* density, float* color) {
  Workspace space;
  const RayBuffers b(space, 1);
  for (int64_t r = 0; r < rows; ++r) {
    copy_row<F>(features + r * kChannels, b.features, kChannels);
    decode_density<F>(decoder, b, 0, 1, KeepNoSlope{});
    density[r] = b.raw[0];
    dense<F, kHidden, kChannels>(b.hidden, decoder.w1_t, decoder.b1, b.color, 1);
    for (int c = 0; c < kChannels; c += F::width) shade(F::load(b.color + c)).store(color + r * kChannels + c);
  }
}

// depths [rays, coarse], weights [rays, coarse - 1] and quantiles u [rays, fine] to depths in ascending order
template <class F>
void draw_depths(
    int64_t rays, int coarse, int fine, const float* depths, const float* weights, const float* u, float* out) {
  Workspace space;
  const RayBuffers b(space, coarse + fine);
  for (int64_t r = 0; r < rays; ++r) {
    sorted_quantiles<F>(u + r * fine, fine, b);
    importance_depths<F>(depths + r * coarse, weights + r * (coarse - 1), coarse, fine, b, b.t);
    for (int k = 0; k < fine; ++k) out[r * fine + k] = b.t[k];
  }
}

// color [rays, N, 32], raw density [rays, N] and sorted depths [rays, N] to features, depth and weight
template <class F>
void march_samples(const March& march,
                   int64_t rays,
                   const float* color,
                   const float* density,
                   const float* depths,
                   const Image& image) {
  const int count = march.coarse;
  Workspace space;
  const RayBuffers b(space, count);
  for (int64_t r = 0; r < rays; ++r) {
    for (int s = 0; s < count; ++s) {
      b.sorted[s] = depths[r * count + s];
      b.ordered[s] = density[r * count + s];
    }
    march_weights<F>(b.sorted, b.ordered, count, b);
    const Seen ray = integrate(b.sorted, b.weight, count);
    const int seen = pick_seen<F>(count, march.min_weight, b);
    for (int k = 0; k < seen; ++k)
      copy_row<F>(color + (r * count + b.seen[k]) * kChannels, b.color + k * kChannels, kChannels);
    blend<F>(
        seen, march.white_back ? 1.0f - ray.weight : 0.0f, b, [](F shaded) { return shaded; },
        image.features + r * kChannels);
    image.weight[r] = ray.weight;
    image.depth[r] = ray.depth;
  }
}

}  // namespace
}  // namespace talk3d
