// What a thread of sample_triplane does, forth and back. Threads along x share a point and take turns at its channels;
// their number is a power of two, and those of a point lie in one warp.
#pragma once

#include "common/sampling.h"
#include "common/triplane.h"
#include "cuda/simt.h"

namespace talk3d {

constexpr int kSampleThreads = 128;

// Channels that a thread takes at once.
template <int kWide>
struct alignas(kWide * sizeof(float)) Channels {
  float at[kWide];
};

template <int kWide>
TALK3D_DEVICE Channels<kWide> load(const float* from) {
  return *reinterpret_cast<const Channels<kWide>*>(from);
}

template <int kWide>
TALK3D_DEVICE void store(float* to, const Channels<kWide>& value) {
  *reinterpret_cast<Channels<kWide>*>(to) = value;
}

TALK3D_DEVICE void add(float* to, const Channels<1>& value) { add_atomically(to, value.at[0]); }
TALK3D_DEVICE void add(float* to, const Channels<4>& value) {
  add_atomically(to, Floats4{value.at[0], value.at[1], value.at[2], value.at[3]});
}

// As many threads for a point as it has uses for, within a warp; the others take other points.
inline int threads_of_point(const Sampling& s, int wide) {
  int threads = 1;
  while (threads < 32 && threads * wide < s.channels) threads *= 2;
  return threads;
}

// Which thread of how many it is for its point.
struct Turn {
  int64_t point;
  int thread, threads;
};

TALK3D_DEVICE Taps<Lane> taps_of(const Sampling& s, const float* point, int plane) {
  const Lane u = point[s.pairs[2 * plane]] * s.scale, v = point[s.pairs[2 * plane + 1]] * s.scale;
  return taps(u, v, s.width, s.height);
}

// Where the features of a point begin: those of one plane, or of all together.
TALK3D_DEVICE int64_t feature_of(const Sampling& s, int64_t point, int plane) {
  const int64_t batch = point / s.points_per_batch, m = point % s.points_per_batch;
  return (s.mean ? point : (batch * s.planes + plane) * s.points_per_batch + m) * s.channels;
}

template <int kWide>
TALK3D_DEVICE void sample_point(const Sampling& s,
                                const Turn& turn,
                                const float* __restrict__ planes,  // [1 or B, P, H, W, C]
                                const float* __restrict__ points,  // [B, M, 3]
                                float* __restrict__ features) {    // [B, M, C], or [B, P, M, C] without mean
  const int64_t point = turn.point;
  if (point >= s.points) return;
  const int64_t batch = point / s.points_per_batch * s.batch_stride;
  for (int channel = turn.thread * kWide; channel < s.channels; channel += turn.threads * kWide) {
    Channels<kWide> feature{};
    for (int plane = 0; plane < s.planes; ++plane) {
      const Taps<Lane> t = taps_of(s, points + 3 * point, plane);
      const int64_t origin = batch + plane * s.plane_stride + channel;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float weight = t.weight[k].v * s.share;
        if (weight == 0.0f) continue;  // outside; the texel nearby may be anything
        const auto texel = load<kWide>(planes + origin + int64_t(t.texel[k]) * s.channels);
        for (int c = 0; c < kWide; ++c) feature.at[c] = fmaf(weight, texel.at[c], feature.at[c]);
      }
      if (!s.mean || plane == s.planes - 1) {
        store(features + feature_of(s, point, plane) + channel, feature);
        feature = {};
      }
    }
  }
}

template <int kWide>
TALK3D_DEVICE void differentiate_point(const Sampling& s,
                                       const Turn& turn,
                                       const float* __restrict__ d_features,  // [B, M, C], or [B, P, M, C] without mean
                                       const float* __restrict__ planes,      // [1 or B, P, H, W, C]
                                       const float* __restrict__ points,      // [B, M, 3]
                                       float* __restrict__ d_planes,  // [1 or B, P, H, W, C], zeroed; null: not needed
                                       float* __restrict__ d_points) {  // [B, M, 3]; null: not needed
  const int64_t point = turn.point;
  float d_point[3] = {};
  for (int plane = 0; point < s.points && plane < s.planes; ++plane) {
    const Taps<Lane> t = taps_of(s, points + 3 * point, plane);
    const float x = t.across.v, y = t.along.v;
    const float slope_x[4] = {y - 1.0f, 1.0f - y, -y, y}, slope_y[4] = {x - 1.0f, -x, 1.0f - x, x};
    float d_x = 0.0f, d_y = 0.0f;
    for (int channel = turn.thread * kWide; channel < s.channels; channel += turn.threads * kWide) {
      const int64_t origin = point / s.points_per_batch * s.batch_stride + plane * s.plane_stride + channel;
      auto d_sampled = load<kWide>(d_features + feature_of(s, point, plane) + channel);
      for (int c = 0; c < kWide; ++c) d_sampled.at[c] *= s.share;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (t.inside[k].v == 0.0f) continue;
        const int64_t index = origin + int64_t(t.texel[k]) * s.channels;
        if (d_planes) {
          Channels<kWide> d_texel;
          for (int c = 0; c < kWide; ++c) d_texel.at[c] = t.weight[k].v * d_sampled.at[c];
          add(d_planes + index, d_texel);
        }
        if (d_points) {
          const auto texel = load<kWide>(planes + index);
          float d_weight = 0.0f;
          for (int c = 0; c < kWide; ++c) d_weight = fmaf(texel.at[c], d_sampled.at[c], d_weight);
          d_x = fmaf(slope_x[k], d_weight, d_x);
          d_y = fmaf(slope_y[k], d_weight, d_y);
        }
      }
    }
    for (int axis = 0; axis < 3; ++axis) {
      if (axis == s.pairs[2 * plane]) d_point[axis] += 0.5f * s.scale * s.width * d_x;
      if (axis == s.pairs[2 * plane + 1]) d_point[axis] += 0.5f * s.scale * s.height * d_y;
    }
  }
  if (!d_points) return;
  for (int axis = 0; axis < 3; ++axis) {
    for (int distance = turn.threads / 2; distance > 0; distance /= 2)
      d_point[axis] += shuffle_xor(d_point[axis], distance);
    if (turn.thread == 0 && point < s.points) d_points[3 * point + axis] = d_point[axis];
  }
}

}  // namespace talk3d
