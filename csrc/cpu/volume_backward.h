// The derivative of volume rendering, one ray at a time, on a lane type F: everything is recomputed from the sorted
// depths and the transmittance that the forward left.
#pragma once

#include "cpu/volume_forward.h"

namespace talk3d {
namespace {

// Scratch memory of the backward of one ray, beside what the forward uses. Rows are those of the seen samples.
struct GradientBuffers {
  float* slope;        // [N, 64] of the hidden activations, all samples
  float* rise;         // [N] of the intervals' opacity to either density
  float* d_raw;        // [N] gradient of the raw densities
  float* tint;         // [N] what a sample's colour is worth to the loss
  float* features;     // [seen, 32]
  float* slopes;       // [seen, 64]
  float* d_density;    // [seen]
  float* d_color;      // [seen, 32] to the second layer's output
  float* d_hidden;     // [seen, 64]
  float* d_features;   // [seen, 32]
  float* by_position;  // [N, 3, 32] features by coordinate
  float* zero;         // [64]

  GradientBuffers(Workspace& space, int samples) {
    const int stride = pad(samples);
    for (float** row : {&rise, &d_raw, &tint, &d_density}) *row = space.take<float>(stride + kPadding);
    for (float** rows : {&slope, &slopes, &d_hidden}) *rows = space.take<float>(stride * kHidden);
    for (float** rows : {&features, &d_color, &d_features}) *rows = space.take<float>(stride * kChannels);
    by_position = space.take<float>(stride * 3 * kChannels);
    zero = space.take<float>(kHidden);
  }
};

// Colours of the seen samples: what each is worth, and the gradient to the second layer's output.
template <class F>
void differentiate_colors(const Decoder& decoder,
                          const float* d_features,
                          int count,
                          int seen,
                          const RayBuffers& b,
                          const GradientBuffers& g) {
  dense<F, kHidden, kChannels>(b.picked, decoder.w1_t, decoder.b1, b.color, seen);
  for (int s = 0; s < count; ++s) g.tint[s] = 0.0f;
  for (int k = 0; k < seen; ++k) {
    F worth(0.0f);
    for (int c = 0; c < kChannels; c += F::width) {
      const F squashed = sigmoid(F::load(b.color + k * kChannels + c));
      const F d_pixel = F::load(d_features + c) * F(2.0f);
      worth = fma(d_pixel, fma(squashed, F(1.002f), F(-0.001f)), worth);
      (d_pixel * F(1.002f * b.share[k]) * squashed * (F(1.0f) - squashed)).store(g.d_color + k * kChannels + c);
    }
    g.tint[b.seen[k]] = sum(worth);
  }
}

// Gradient to the raw densities of all samples, back to front.
inline void differentiate_march(
    const March& march, const Cotangents& from, int64_t r, int count, const RayBuffers& b, const GradientBuffers& g) {
  const Seen ray = integrate(b.t, b.weight, count);
  // a ray without weight has no interval to go through below
  const float d_depth = ray.weight == 0.0f ? 0.0f : from.depth[r] / ray.weight;
  float white = 0.0f;
  for (int c = 0; march.white_back && c < kChannels; ++c) white += 2.0f * from.features[r * kChannels + c];

  for (int s = 0; s < count; ++s) g.d_raw[s] = 0.0f;
  float shadow = 0.0f;  // what the intervals behind would lose
  for (int s = count - 2; s >= 0; --s) {
    if (b.weight[s] <= march.min_weight) continue;  // transparent or out of sight: its gradient is below rounding
    const float middle = 0.5f * (b.t[s] + b.t[s + 1]);
    const float worth = 0.5f * (g.tint[s] + g.tint[s + 1]) + from.weight[r] - white + d_depth * (middle - ray.depth);
    const float d_alpha = worth * b.through[s] - shadow / (1.0f - b.alpha[s] + kClear);
    shadow += worth * b.weight[s];
    g.d_raw[s] += d_alpha * g.rise[s];
    g.d_raw[s + 1] += d_alpha * g.rise[s];
  }
}

// From the second layer's output to the features of the seen samples, and to the decoder.
template <class F>
void differentiate_decoder(const Decoder& decoder,
                           int seen,
                           bool back_to_features,
                           const RayBuffers& b,
                           const GradientBuffers& g,
                           float* d_decoder) {
  dense<F, kChannels, kHidden>(g.d_color, decoder.w1, g.zero, g.d_hidden, seen);
  for (int k = 0; k < seen; ++k) {
    g.d_density[k] = g.d_raw[b.seen[k]];
    for (int h = 0; h < kHidden; h += F::width) {
      const int at = k * kHidden + h;
      const F whole = fma(F(g.d_density[k]), F::load(decoder.density + h), F::load(g.d_hidden + at));
      (whole * F::load(g.slopes + at)).store(g.d_hidden + at);
    }
  }
  if (back_to_features) dense<F, kHidden, kChannels>(g.d_hidden, decoder.w0, g.zero, g.d_features, seen);
  if (!d_decoder) return;
  float* d_b0 = d_decoder + kHidden * kChannels;
  float* d_w1 = d_b0 + kHidden;
  float* d_b1 = d_w1 + (1 + kChannels) * kHidden;
  add_outer<F, kHidden, kChannels>(g.d_hidden, g.features, seen, d_decoder);
  add_rows<F, kHidden>(g.d_hidden, seen, d_b0);
  for (int h = 0; h < kHidden; h += F::width) {
    F total = F::load(d_w1 + h);
    for (int k = 0; k < seen; ++k) total = fma(F(g.d_density[k]), F::load(b.picked + k * kHidden + h), total);
    total.store(d_w1 + h);
  }
  add_outer<F, kChannels, kHidden>(g.d_color, b.picked, seen, d_w1 + kHidden);
  for (int k = 0; k < seen; ++k) d_b1[0] += g.d_density[k];
  add_rows<F, kChannels>(g.d_color, seen, d_b1 + 1);
}

// Features of all samples, and how they change with each coordinate of the volume: the texels are at hand only once.
template <class F>
void gather_with_gradient(
    const Volume& volume, const float* planes, const float* ray, const RayBuffers& b, float* gradient, int count) {
  constexpr int kVectors = kChannels / F::width;
  const float half_size[2] = {0.5f / 3.0f * volume.scale * static_cast<float>(volume.width),
                              0.5f / 3.0f * volume.scale * static_cast<float>(volume.height)};
  for (int begin = 0; begin < count; begin += F::width) {
    const int end = begin + F::width < count ? begin + F::width : count;
    const F t = F::load(b.t + begin);
    F point[3];
    for (int axis = 0; axis < 3; ++axis) point[axis] = (F(ray[axis]) + t * F(ray[3 + axis])) * F(volume.scale);
    for (int s = begin; s < end; ++s) {
      for (int k = 0; k < 3 * kChannels; k += F::width) F(0.0f).store(gradient + s * 3 * kChannels + k);
      for (int k = 0; k < kChannels; k += F::width) F(0.0f).store(b.features + s * kChannels + k);
    }
    for (int plane = 0; plane < volume.planes; ++plane) {
      const int axes[2] = {volume.pairs[2 * plane], volume.pairs[2 * plane + 1]};
      const Taps<F> found = taps(point[axes[0]], point[axes[1]], volume.width, volume.height);
      const F x = found.across, y = found.along, one(1.0f);
      const F slope_x[4] = {y - one, one - y, F(0.0f) - y, y}, slope_y[4] = {x - one, F(0.0f) - x, one - x, x};
      alignas(64) int32_t texel[4][F::width];
      alignas(64) float weight[4][F::width], across[4][F::width], along[4][F::width];
      for (int k = 0; k < 4; ++k) {
        F::store(texel[k], found.texel[k]);
        (found.weight[k] * F(1.0f / 3.0f)).store(weight[k]);
        (slope_x[k] * found.inside[k] * F(half_size[0])).store(across[k]);
        (slope_y[k] * found.inside[k] * F(half_size[1])).store(along[k]);
      }
      for (int s = begin; s < end; ++s) {
        float* rows[3] = {b.features + s * kChannels, gradient + (3 * s + axes[0]) * kChannels,
                          gradient + (3 * s + axes[1]) * kChannels};
        F sums[3][kVectors];
        for (int row = 0; row < 3; ++row)
          for (int v = 0; v < kVectors; ++v) sums[row][v] = F::load(rows[row] + v * F::width);
        for (int k = 0; k < 4; ++k) {
          const float* from = planes + plane * volume.plane_stride + int64_t(texel[k][s - begin]) * kChannels;
          const F shares[3] = {F(weight[k][s - begin]), F(across[k][s - begin]), F(along[k][s - begin])};
          for (int v = 0; v < kVectors; ++v) {
            const F seen = F::load(from + v * F::width);
            for (int row = 0; row < 3; ++row) sums[row][v] = fma(shares[row], seen, sums[row][v]);
          }
        }
        for (int row = 0; row < 3; ++row)
          for (int v = 0; v < kVectors; ++v) sums[row][v].store(rows[row] + v * F::width);
      }
    }
  }
}

template <class F>
float dot(const float* left, const float* right, int count) {
  F total(0.0f);
  for (int k = 0; k < count; k += F::width) total = fma(F::load(left + k), F::load(right + k), total);
  return sum(total);
}

// Rays [begin, end), by recomputation.
template <class F>
void differentiate(const Volume& volume,
                   const Decoder& decoder,
                   const March& march,
                   const Rays& rays,
                   const Cotangents& from,
                   const Gradients& to,
                   int64_t begin,
                   int64_t end) {
  const int count = march.coarse + march.fine;
  Workspace space;
  const RayBuffers b(space, count);
  const GradientBuffers g(space, count);
  for (int s = 0; s < count; ++s) b.order[s] = s;  // the depths come sorted
  int samples = 0;
  for (int64_t r = begin; r < end; ++r) {
    const float* ray = rays.rays + 8 * r;
    const float* planes = volume.texels + r / rays.rays_per_camera * volume.batch_stride;
    for (int s = 0; s < count; ++s) b.t[s] = from.depths[r * count + s];
    for (int s = 0; s < count - 1; ++s) b.through[s] = from.transmittance[r * (count - 1) + s];
    if (to.rays) {
      gather_with_gradient<F>(volume, planes, ray, b, g.by_position, count);
    } else {
      project<F>(volume, ray, b, 0, count);
      gather<F>(volume, planes, b, 0, count);
    }
    decode_density<F>(decoder, b, 0, count, KeepSlope{g.slope});
    for (int s = 0; s < count - 1; s += F::width) {
      F rise;
      const F gap = F::load(b.t + s + 1) - F::load(b.t + s);
      const F alpha = interval_opacity(F::load(b.raw + s), F::load(b.raw + s + 1), gap, rise);
      alpha.store(b.alpha + s);
      rise.store(g.rise + s);
      (alpha * F::load(b.through + s)).store(b.weight + s);
    }
    const int seen = pick_seen<F>(count, march.min_weight, b);
    for (int k = 0; k < seen; ++k) {
      copy_row<F>(g.slope + b.seen[k] * kHidden, g.slopes + k * kHidden, kHidden);
      copy_row<F>(b.features + b.seen[k] * kChannels, g.features + k * kChannels, kChannels);
    }
    differentiate_colors<F>(decoder, from.features + r * kChannels, count, seen, b, g);
    differentiate_march(march, from, r, count, b, g);
    differentiate_decoder<F>(decoder, seen, to.rays || to.features, b, g, to.decoder);

    float d_ray[8] = {};
    for (int k = 0; k < seen && (to.rays || to.features); ++k) {
      const float t = b.t[b.seen[k]];
      const float* d_feature = g.d_features + k * kChannels;
      for (int axis = 0; to.rays && axis < 3; ++axis) {
        const float d_point = dot<F>(g.by_position + (3 * b.seen[k] + axis) * kChannels, d_feature, kChannels);
        d_ray[axis] += d_point;
        d_ray[3 + axis] += d_point * t;
      }
      if (to.features) {
        copy_row<F>(d_feature, to.features + int64_t(samples) * kChannels, kChannels);
        for (int axis = 0; axis < 3; ++axis) to.points[3 * int64_t(samples) + axis] = ray[axis] + t * ray[3 + axis];
        ++samples;
      }
    }
    for (int k = 0; to.rays && k < 8; ++k) to.rays[8 * r + k] = d_ray[k];
  }
  if (to.samples) *to.samples = samples;
}

}  // namespace
}  // namespace talk3d
