// Volume rendering, one ray at a time, on a lane type F. Included by one translation unit for each instruction set.
//
// The decoder runs with lanes over channels: a sample's features are one or two vectors, its weights are broadcast, and
// samples that need no colour are simply left out of the second layer. Everything else (projection, opacities, search)
// runs with lanes over samples, whose buffers are padded to whole vectors.
#pragma once

#include "common/march.h"
#include "common/triplane.h"
#include "cpu/dense.h"
#include "cpu/importance.h"
#include "cpu/ray_buffers.h"
#include "cpu/volume.h"

namespace talk3d {
namespace {

// The first `count` of a vector's lanes from memory that ends there.
template <class F>
F load_some(const float* from, int count) {
  if (count >= F::width) return F::load(from);
  float row[F::width] = {};
  for (int k = 0; k < count; ++k) row[k] = from[k];
  return F::load(row);
}

// Depths of the coarse samples, one in each stratum.
template <class F>
void coarse_depths(const March& march, const float* ray, const float* jitter, float* t) {
  for (int s = 0; s < march.coarse; s += F::width) {
    const F within = jitter ? load_some<F>(jitter + s, march.coarse - s) : F(0.5f);
    stratum_depth(march, F(ray[6]), F(ray[7]), F::ramp(static_cast<float>(s)), within).store(t + s);
  }
}

// The taps of samples [begin, end) on every plane.
template <class F>
void project(const Volume& volume, const float* ray, const RayBuffers& b, int begin, int end) {
  for (int s = begin; s < end; s += F::width) {
    const F t = F::load(b.t + s);
    F point[3];
    for (int axis = 0; axis < 3; ++axis) point[axis] = (F(ray[axis]) + t * F(ray[3 + axis])) * F(volume.scale);
    for (int plane = 0; plane < volume.planes; ++plane) {
      const Taps<F> found =
          taps(point[volume.pairs[2 * plane]], point[volume.pairs[2 * plane + 1]], volume.width, volume.height);
      for (int k = 0; k < 4; ++k) {
        const int at = (4 * plane + k) * b.stride + s;
        F::store(b.texel + at, found.texel[k]);
        (found.weight[k] * F(1.0f / 3.0f)).store(b.tap + at);
      }
    }
  }
}

// Mean of the plane features of samples [begin, end).
template <class F>
void gather(const Volume& volume, const float* planes, const RayBuffers& b, int begin, int end) {
  constexpr int kVectors = kChannels / F::width;
  for (int s = begin; s < end; ++s) {
    F sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = F(0.0f);
    for (int plane = 0; plane < volume.planes; ++plane) {
      const float* base = planes + plane * volume.plane_stride;
      for (int k = 0; k < 4; ++k) {
        const int at = (4 * plane + k) * b.stride + s;
        const float* from = base + int64_t(b.texel[at]) * kChannels;
        const F share(b.tap[at]);
        for (int v = 0; v < kVectors; ++v) sums[v] = fma(share, F::load(from + v * F::width), sums[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) sums[v].store(b.features + s * kChannels + v * F::width);
  }
}

// What becomes of a hidden unit: its activation; for the backward also the slope there.
struct KeepNoSlope {
  template <class F>
  TALK3D_HD F operator()(F before, int) const {
    return softplus(before);
  }
};
struct KeepSlope {
  float* slope;  // [N, 64]
  template <class F>
  TALK3D_HD F operator()(F before, int at) const {
    F rise;
    const F active = softplus(before, rise);
    rise.store(slope + at);
    return active;
  }
};

// Hidden activations and raw densities of samples [begin, end), from their features.
template <class F, class Activation>
void decode_density(const Decoder& decoder, const RayBuffers& b, int begin, int end, Activation activation) {
  dense<F, kChannels, kHidden>(b.features + begin * kChannels, decoder.w0_t, decoder.b0, b.hidden + begin * kHidden,
                               end - begin);
  for (int s = begin; s < end; ++s) {
    F totals[4] = {F(0.0f), F(0.0f), F(0.0f), F(0.0f)};  // short sums: less rounding, less waiting
    for (int h = 0; h < kHidden; h += F::width) {
      const int at = s * kHidden + h;
      const F active = activation(F::load(b.hidden + at), at);
      active.store(b.hidden + at);
      F& total = totals[h / F::width % 4];
      total = fma(active, F::load(decoder.density + h), total);
    }
    b.raw[s] = sum((totals[0] + totals[1]) + (totals[2] + totals[3])) + decoder.density_bias;
  }
}

template <class F, class Activation>
void evaluate(const Volume& volume,
              const Decoder& decoder,
              const float* planes,
              const float* ray,
              const RayBuffers& b,
              int begin,
              int end,
              Activation activation) {
  project<F>(volume, ray, b, begin, end);
  gather<F>(volume, planes, b, begin, end);
  decode_density<F>(decoder, b, begin, end, activation);
}

// Opacity, transmittance and weight of the intervals between `count` samples; the transmittance is the only thing that
// runs along the ray.
template <class F>
void march_weights(const float* depths, const float* density, int count, const RayBuffers& b) {
  for (int s = 0; s < count - 1; s += F::width) {
    interval_opacity(F::load(density + s), F::load(density + s + 1), F::load(depths + s + 1) - F::load(depths + s))
        .store(b.alpha + s);
  }
  float through = 1.0f;
  for (int s = 0; s < count - 1; ++s) {
    b.through[s] = through;
    b.weight[s] = b.alpha[s] * through;
    through *= 1.0f - b.alpha[s] + kClear;
  }
}

// The samples whose colour is seen: their places go to b.seen, how much of them is seen to b.share, and their hidden
// activations to b.picked. Returns how many there are.
template <class F>
int pick_seen(int count, float min_weight, const RayBuffers& b) {
  int seen = 0;
  for (int s = 0; s < count; ++s) {
    const float before = s > 0 ? b.weight[s - 1] : 0.0f, after = s < count - 1 ? b.weight[s] : 0.0f;
    if (before <= min_weight && after <= min_weight) continue;
    b.seen[seen] = s;
    b.share[seen] = 0.5f * (before + after);
    copy_row<F>(b.hidden + b.order[s] * kHidden, b.picked + seen * kHidden, kHidden);
    ++seen;
  }
  return seen;
}

// From the second layer's output to a colour.
template <class F>
TALK3D_HD F shade(F out) {
  return fma(sigmoid(out), F(1.002f), F(-0.001f));
}

// The pixel: the seen colours, each by its share, over a grey background; doubled and less one.
template <class F, class Shade>
void blend(int seen, float background, const RayBuffers& b, Shade shade_color, float* features) {
  constexpr int kVectors = kChannels / F::width;
  F sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = F(background);
  for (int s = 0; s < seen; ++s) {
    for (int v = 0; v < kVectors; ++v)
      sums[v] = fma(F(b.share[s]), shade_color(F::load(b.color + s * kChannels + v * F::width)), sums[v]);
  }
  for (int v = 0; v < kVectors; ++v) fma(sums[v], F(2.0f), F(-1.0f)).store(features + v * F::width);
}

struct Seen {
  float weight, depth;
};

// Opacity and mean depth of a ray, from the weights of its intervals. Without weight the depth is infinite.
inline Seen integrate(const float* depths, const float* weight, int count) {
  Seen ray{0.0f, 0.0f};
  for (int s = 0; s < count - 1; ++s) {
    ray.weight += weight[s];
    ray.depth += weight[s] * 0.5f * (depths[s] + depths[s + 1]);
  }
  ray.depth = ray.weight == 0.0f ? INFINITY : ray.depth / ray.weight;
  return ray;
}

template <class F>
void render(const Volume& volume,
            const Decoder& decoder,
            const March& march,
            const Rays& rays,
            const Image& image,
            int64_t begin,
            int64_t end) {
  const int coarse = march.coarse, fine = march.fine, count = coarse + fine;
  Workspace space;
  const RayBuffers b(space, count);
  for (int64_t r = begin; r < end; ++r) {
    const float* ray = rays.rays + 8 * r;
    const float* planes = volume.texels + r / rays.rays_per_camera * volume.batch_stride;
    coarse_depths<F>(march, ray, rays.jitter ? rays.jitter + r * coarse : nullptr, b.t);
    evaluate<F>(volume, decoder, planes, ray, b, 0, coarse, KeepNoSlope{});
    if (fine) {
      march_weights<F>(b.t, b.raw, coarse, b);
      sorted_quantiles<F>(rays.u ? rays.u + r * fine : nullptr, fine, b);
      importance_depths<F>(b.t, b.weight, coarse, fine, b, b.t + coarse);
      evaluate<F>(volume, decoder, planes, ray, b, coarse, count, KeepNoSlope{});
    }
    merge<F>(coarse, fine, b);
    march_weights<F>(b.sorted, b.ordered, count, b);

    const Seen ray_seen = integrate(b.sorted, b.weight, count);
    const int seen = pick_seen<F>(count, march.min_weight, b);
    dense<F, kHidden, kChannels>(b.picked, decoder.w1_t, decoder.b1, b.color, seen);
    blend<F>(seen, march.white_back ? 1.0f - ray_seen.weight : 0.0f, b, shade<F>, image.features + r * kChannels);
    image.weight[r] = ray_seen.weight;
    image.depth[r] =
        march.clamp_depth ? fminf(fmaxf(ray_seen.depth, b.sorted[0]), b.sorted[count - 1]) : ray_seen.depth;
    for (int s = 0; s < count; ++s) image.depths[r * count + s] = b.sorted[s];
    for (int s = 0; s < count - 1; ++s) image.transmittance[r * (count - 1) + s] = b.through[s];
  }
}

}  // namespace
}  // namespace talk3d
