// Tri-plane sampling on a lane type F. Included by one translation unit for each instruction set.
//
// Points are taken by the tile. Their taps are found with lanes over points, and listed. Then lanes run over channels,
// while the texels of taps further down the list are fetched: planes are larger than caches.
#pragma once

#include "common/triplane.h"
#include "cpu/triplane.h"

namespace talk3d {

constexpr int kTile = 64;
constexpr int kTaps = kTile * Sampling::kMaxPlanes * 4;
constexpr int kAhead = 24;  // taps between fetching and using
constexpr int kHeld = 32;   // channels that are held in registers

// Points of one tile, all of one batch.
template <class F>
struct Tile {
  int64_t begin;
  int count;
  int64_t texels;                      // where the planes of the batch begin
  int64_t rows[Sampling::kMaxPlanes];  // where the features of the first point begin, for each plane
  // taps: [plane][tap][point], [plane][point]
  alignas(64) int32_t texel[Sampling::kMaxPlanes][4][kTile];
  alignas(64) float weight[Sampling::kMaxPlanes][4][kTile];
  alignas(64) float inside[Sampling::kMaxPlanes][4][kTile];
  alignas(64) float across[Sampling::kMaxPlanes][kTile];
  alignas(64) float along[Sampling::kMaxPlanes][kTile];

  Tile(const Sampling& s, const float* points, int64_t begin, int64_t end) : begin(begin) {
    const int64_t M = s.points_per_batch, batch = begin / M, m = begin % M;
    count = static_cast<int>(end - begin < kTile ? end - begin : kTile);
    if (count > M - m) count = static_cast<int>(M - m);
    texels = batch * s.batch_stride;
    for (int plane = 0; plane < s.planes; ++plane)
      rows[plane] = (s.mean ? begin : (batch * s.planes + plane) * M + m) * s.channels;
    find_taps(s, points + 3 * begin);
  }

  int64_t texel_of(const Sampling& s, int plane, int tap, int point) const {
    return texels + plane * s.plane_stride + int64_t(texel[plane][tap][point]) * s.channels;
  }

 private:
  void find_taps(const Sampling& s, const float* points) {
    alignas(64) float coordinate[3][kTile] = {};
    for (int point = 0; point < count; ++point)
      for (int axis = 0; axis < 3; ++axis) coordinate[axis][point] = points[3 * point + axis] * s.scale;
    const F far(4.0f), near(-4.0f);  // outside a plane of any size, and still finite
    for (int plane = 0; plane < s.planes; ++plane) {
      for (int point = 0; point < count; point += F::width) {
        const F u = max(near, min(far, F::load(coordinate[s.pairs[2 * plane]] + point)));
        const F v = max(near, min(far, F::load(coordinate[s.pairs[2 * plane + 1]] + point)));
        const Taps<F> found = taps(u, v, s.width, s.height);
        for (int tap = 0; tap < 4; ++tap) {
          F::store(texel[plane][tap] + point, found.texel[tap]);
          (found.weight[tap] * F(s.share)).store(weight[plane][tap] + point);
          found.inside[tap].store(inside[plane][tap] + point);
        }
        found.across.store(across[plane] + point);
        found.along.store(along[plane] + point);
      }
    }
  }
};

template <class F>
TALK3D_HD void fetch(const float* row, int channels) {
  __builtin_prefetch(row);
  if (channels > 16) __builtin_prefetch(row + 16);
}

template <class F>
struct Tap {
  int64_t texel;
  float weight;
};

// out [kVectors lanes] = the weighted sum of what the taps see
template <class F, int kVectors>
TALK3D_HD void weigh(const float* planes, const Tap<F>* begin, const Tap<F>* end, float* out) {
  F sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = F(0.0f);
  for (const Tap<F>* tap = begin; tap < end; ++tap) {
    const F weight(tap->weight);
    for (int v = 0; v < kVectors; ++v) sums[v] = fma(weight, F::load(planes + tap->texel + v * F::width), sums[v]);
  }
  for (int v = 0; v < kVectors; ++v) sums[v].store(out + v * F::width);
}

template <class F>
void sample(const Sampling& s, const float* planes, const float* points, float* features, int64_t begin, int64_t end) {
  Tap<F> taps[kTaps];
  int first[kTile * Sampling::kMaxPlanes + 1];  // of each point and plane
  const int together = s.mean ? s.planes : 1;   // planes that share a row
  while (begin < end) {
    const Tile<F> tile(s, points, begin, end);
    int listed = 0;
    for (int point = 0; point < tile.count; ++point) {
      for (int plane = 0; plane < s.planes; ++plane) {
        first[point * s.planes + plane] = listed;
        for (int tap = 0; tap < 4; ++tap) {
          taps[listed] = {tile.texel_of(s, plane, tap, point), tile.weight[plane][tap][point]};
          listed += taps[listed].weight != 0.0f;  // outside; the texel nearby may be anything
        }
      }
    }
    first[tile.count * s.planes] = listed;
    for (int tap = 0; tap < listed && tap < kAhead; ++tap) fetch<F>(planes + taps[tap].texel, s.channels);
    for (int row = 0; row < tile.count * s.planes; row += together) {
      const int from = first[row], to = first[row + together];
      for (int tap = from + kAhead; tap < to + kAhead && tap < listed; ++tap)
        fetch<F>(planes + taps[tap].texel, s.channels);
      float* out = features + tile.rows[row % s.planes] + int64_t(row / s.planes) * s.channels;
      int c = 0;
      for (; c + kHeld <= s.channels; c += kHeld)
        weigh<F, kHeld / F::width>(planes + c, taps + from, taps + to, out + c);
      for (; c + F::width <= s.channels; c += F::width) weigh<F, 1>(planes + c, taps + from, taps + to, out + c);
      for (; c < s.channels; ++c) {
        float sum = 0.0f;
        for (int tap = from; tap < to; ++tap) sum += taps[tap].weight * planes[taps[tap].texel + c];
        out[c] = sum;
      }
    }
    begin += tile.count;
  }
}

template <class F>
struct Slope {
  int64_t texel;
  float across, along;  // of the tap's weight
};

template <class F>
void differentiate_points(const Sampling& s,
                          const float* d_features,
                          const float* planes,
                          const float* points,
                          float* d_points,
                          int64_t begin,
                          int64_t end) {
  Slope<F> taps[kTaps];
  int first[kTile * Sampling::kMaxPlanes + 1];
  const float per_texel = 0.5f * s.scale * s.share;
  while (begin < end) {
    const Tile<F> tile(s, points, begin, end);
    int listed = 0;
    for (int point = 0; point < tile.count; ++point) {
      for (int plane = 0; plane < s.planes; ++plane) {
        first[point * s.planes + plane] = listed;
        const float x = tile.across[plane][point], y = tile.along[plane][point];
        const float across[4] = {y - 1.0f, 1.0f - y, -y, y}, along[4] = {x - 1.0f, -x, 1.0f - x, x};
        for (int tap = 0; tap < 4; ++tap) {
          taps[listed] = {tile.texel_of(s, plane, tap, point), across[tap], along[tap]};
          listed += tile.inside[plane][tap][point] != 0.0f;
        }
      }
    }
    first[tile.count * s.planes] = listed;
    for (int tap = 0; tap < listed && tap < kAhead; ++tap) fetch<F>(planes + taps[tap].texel, s.channels);
    for (int point = 0; point < tile.count; ++point) {
      float* d_point = d_points + 3 * (tile.begin + point);
      for (int axis = 0; axis < 3; ++axis) d_point[axis] = 0.0f;
      for (int plane = 0; plane < s.planes; ++plane) {
        const int from = first[point * s.planes + plane], to = first[point * s.planes + plane + 1];
        for (int tap = from + kAhead; tap < to + kAhead && tap < listed; ++tap)
          fetch<F>(planes + taps[tap].texel, s.channels);
        const float* d_feature = d_features + tile.rows[plane] + int64_t(point) * s.channels;
        F across(0.0f), along(0.0f);
        int c = 0;
        for (; c + F::width <= s.channels; c += F::width) {
          const F d_channel = F::load(d_feature + c);
          for (int tap = from; tap < to; ++tap) {
            const F worth = d_channel * F::load(planes + taps[tap].texel + c);
            across = fma(F(taps[tap].across), worth, across);
            along = fma(F(taps[tap].along), worth, along);
          }
        }
        float d_x = sum(across), d_y = sum(along);
        for (; c < s.channels; ++c) {
          for (int tap = from; tap < to; ++tap) {
            const float worth = d_feature[c] * planes[taps[tap].texel + c];
            d_x += taps[tap].across * worth;
            d_y += taps[tap].along * worth;
          }
        }
        d_point[s.pairs[2 * plane]] += d_x * per_texel * static_cast<float>(s.width);
        d_point[s.pairs[2 * plane + 1]] += d_y * per_texel * static_cast<float>(s.height);
      }
    }
    begin += tile.count;
  }
}

template <class F>
struct Share {
  int64_t texel, row;
  float weight;
};

// All points; each texel meets them in their order, whoever owns it.
template <class F>
void scatter(const Sampling& s, const Bands& bands, const float* d_features, const float* points, float* d_planes) {
  Share<F> shares[kTaps];
  for (int64_t begin = 0; begin < s.points;) {
    const Tile<F> tile(s, points, begin, s.points);
    int listed = 0;
    for (int point = 0; point < tile.count; ++point) {
      for (int plane = 0; plane < s.planes; ++plane) {
        const int64_t plane_begin = (tile.texels + plane * s.plane_stride) / s.channels;
        for (int tap = 0; tap < 4; ++tap) {
          const float weight = tile.weight[plane][tap][point];
          shares[listed] = {tile.texel_of(s, plane, tap, point), tile.rows[plane] + int64_t(point) * s.channels,
                            weight};
          listed += weight != 0.0f && bands.owned[(plane_begin + tile.texel[plane][tap][point]) >> bands.shift];
        }
      }
    }
    for (int k = 0; k < listed && k < kAhead; ++k) fetch<F>(d_planes + shares[k].texel, s.channels);
    for (int k = 0; k < listed; ++k) {
      if (k + kAhead < listed) fetch<F>(d_planes + shares[k + kAhead].texel, s.channels);
      const float* from = d_features + shares[k].row;
      float* to = d_planes + shares[k].texel;
      const F weight(shares[k].weight);
      int c = 0;
      for (; c + F::width <= s.channels; c += F::width) fma(weight, F::load(from + c), F::load(to + c)).store(to + c);
      for (; c < s.channels; ++c) to[c] += shares[k].weight * from[c];
    }
    begin += tile.count;
  }
}

}  // namespace talk3d
