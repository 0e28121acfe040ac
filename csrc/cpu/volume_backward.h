// The derivative of volume rendering, one ray at a time, on a lane type F: everything is recomputed from the sorted
// depths and the transmittance that the forward left.
#pragma once

#include "cpu/volume_forward.h"

namespace talk3d {

// Scratch memory of the backward of one ray, beside what the forward uses. Rows are those of the seen samples.
struct GradientBuffers {
  float* slope;       // [N, 64] of the hidden activations, all samples
  float* rise;        // [N] of the intervals' opacity to either density
  float* d_raw;       // [N] gradient of the raw densities
  float* tint;        // [N] what a sample's colour is worth to the loss
  float* features;    // [seen, 32]
  float* slopes;      // [seen, 64]
  float* d_density;   // [seen]
  float* d_color;     // [seen, 32] to the second layer's output
  float* d_hidden;    // [seen, 64]
  float* d_features;  // [seen, 32]
  float* zero;        // [64]

  GradientBuffers(Workspace& space, int samples) {
    const int stride = pad(samples);
    for (float** row : {&rise, &d_raw, &tint, &d_density}) *row = space.take<float>(stride + kPadding);
    for (float** rows : {&slope, &slopes, &d_hidden}) *rows = space.take<float>(stride * kHidden);
    for (float** rows : {&features, &d_color, &d_features}) *rows = space.take<float>(stride * kChannels);
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

// Gradient of one sample's features to where it lies, in plane coordinates: d_point [3].
template <class F>
void differentiate_position(
    const Volume& volume, const float* planes, const float* point, const float* d_feature, float* d_point) {
  constexpr int kVectors = kChannels / F::width;
  const int64_t plane_size = int64_t(volume.height) * volume.width * kChannels;
  for (int axis = 0; axis < 3; ++axis) d_point[axis] = 0.0f;
  for (int plane = 0; plane < volume.planes_count; ++plane) {
    const int across = volume.pairs[2 * plane], along = volume.pairs[2 * plane + 1];
    const Taps<Lane> t = taps<Lane>(point[across], point[along], volume.width, volume.height);
    const float x = t.across.v, y = t.along.v;
    const float slope_x[4] = {y - 1.0f, 1.0f - y, -y, y}, slope_y[4] = {x - 1.0f, -x, 1.0f - x, x};
    F seen_x(0.0f), seen_y(0.0f);
    for (int k = 0; k < 4; ++k) {
      const float* from = planes + plane * plane_size + int64_t(t.texel[k]) * kChannels;
      F worth(0.0f);
      for (int v = 0; v < kVectors; ++v)
        worth = fma(F::load(from + v * F::width), F::load(d_feature + v * F::width), worth);
      seen_x = fma(worth, F(slope_x[k] * t.inside[k].v), seen_x);
      seen_y = fma(worth, F(slope_y[k] * t.inside[k].v), seen_y);
    }
    d_point[across] += sum(seen_x) * (0.5f / 3.0f) * static_cast<float>(volume.width);
    d_point[along] += sum(seen_y) * (0.5f / 3.0f) * static_cast<float>(volume.height);
  }
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
    const float* planes = volume.planes + r / rays.rays_per_camera * volume.batch_stride;
    for (int s = 0; s < count; ++s) b.t[s] = from.depths[r * count + s];
    for (int s = 0; s < count - 1; ++s) b.through[s] = from.transmittance[r * (count - 1) + s];
    evaluate<F>(volume, decoder, planes, ray, b, 0, count, KeepSlope{g.slope});
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
      float point[3];
      for (int axis = 0; axis < 3; ++axis) point[axis] = (ray[axis] + t * ray[3 + axis]) * volume.scale;
      if (to.rays) {
        float d_point[3];
        differentiate_position<F>(volume, planes, point, d_feature, d_point);
        for (int axis = 0; axis < 3; ++axis) {
          d_ray[axis] += d_point[axis] * volume.scale;
          d_ray[3 + axis] += d_point[axis] * volume.scale * t;
        }
      }
      if (to.features) {
        copy_row<F>(d_feature, to.features + int64_t(samples) * kChannels, kChannels);
        for (int axis = 0; axis < 3; ++axis) to.points[3 * int64_t(samples) + axis] = point[axis];
        ++samples;
      }
    }
    for (int k = 0; to.rays && k < 8; ++k) to.rays[8 * r + k] = d_ray[k];
  }
  if (to.samples) *to.samples = samples;
}

// Add the gradients of packed samples to the rows of the planes that the owner has.
template <class F>
void scatter(const Volume& volume,
             const Owner& owner,
             const float* features,
             const float* points,
             int samples,
             float* d_planes) {
  const int64_t plane_size = int64_t(volume.height) * volume.width * kChannels;
  for (int s = 0; s < samples; ++s) {
    const float* point = points + 3 * int64_t(s);
    for (int plane = 0; plane < volume.planes_count; ++plane) {
      const Taps<Lane> t =
          taps<Lane>(point[volume.pairs[2 * plane]], point[volume.pairs[2 * plane + 1]], volume.width, volume.height);
      for (int k = 0; k < 4; ++k) {
        if (!owner.owns(t.texel[k] / volume.width)) continue;
        float* to = d_planes + plane * plane_size + int64_t(t.texel[k]) * kChannels;
        const F share(t.weight[k].v * (1.0f / 3.0f));
        for (int c = 0; c < kChannels; c += F::width)
          fma(share, F::load(features + int64_t(s) * kChannels + c), F::load(to + c)).store(to + c);
      }
    }
  }
}

}  // namespace talk3d
