// Tri-plane sampling on a lane type F. Included by one translation unit for each instruction set.
//
// Points are taken by the tile. Their taps are found with lanes over points, and listed. Then lanes run over channels,
// while the texels of taps further down the list are fetched: planes are larger than caches.
#pragma once

#include "common/triplane.h"
#include "cpu/triplane.h"

namespace talk3d {
namespace {

constexpr int kTile = 64;
constexpr int kRows = kTile * Sampling::kMaxPlanes;
constexpr int kTaps = 4 * kRows;
constexpr int kAhead = 24;  // taps between fetching and using
constexpr int kHeld = 32;   // channels that are held in registers

// Points of one batch, and where they fall on its planes.
template <class F>
struct Tile {
  int64_t begin;
  int count;
  int64_t texels;                      // where the planes of the batch begin
  int64_t rows[Sampling::kMaxPlanes];  // where the features of the first point begin, for each plane
  // [plane][tap][point], [plane][point]
  alignas(64) int32_t texel[Sampling::kMaxPlanes][4][kTile];
  alignas(64) float weight[Sampling::kMaxPlanes][4][kTile];
  alignas(64) float inside[Sampling::kMaxPlanes][4][kTile];
  alignas(64) float across[Sampling::kMaxPlanes][kTile];
  alignas(64) float along[Sampling::kMaxPlanes][kTile];

  Tile(const Sampling& s, const float* points, int64_t begin, int64_t end) : begin(begin) {
    const int64_t M = s.points_per_batch, batch = begin / M, m = begin % M;
    const int64_t left = end - begin < M - m ? end - begin : M - m;
    count = static_cast<int>(left < kTile ? left : kTile);
    texels = batch * s.batch_stride;
    for (int plane = 0; plane < s.planes; ++plane)
      rows[plane] = (s.mean ? begin : (batch * s.planes + plane) * M + m) * s.channels;
    find_taps(s, points + 3 * begin);
  }

  int64_t texel_of(const Sampling& s, int plane, int tap, int point) const {
    return texels + plane * s.plane_stride + int64_t(texel[plane][tap][point]) * s.channels;
  }

  int64_t row_of(const Sampling& s, int plane, int point) const { return rows[plane] + int64_t(point) * s.channels; }

 private:
  void find_taps(const Sampling& s, const float* points) {
    alignas(64) float coordinate[3][kTile] = {};
    for (int point = 0; point < count; ++point)
      for (int axis = 0; axis < 3; ++axis) coordinate[axis][point] = points[3 * point + axis] * s.scale;
    for (int plane = 0; plane < s.planes; ++plane) {
      for (int point = 0; point < count; point += F::width) {
        const Taps<F> found = taps(F::load(coordinate[s.pairs[2 * plane]] + point),
                                   F::load(coordinate[s.pairs[2 * plane + 1]] + point), s.width, s.height);
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

TALK3D_HD void fetch(const float* texel, int channels) {
  __builtin_prefetch(texel);
  if (channels > 16) __builtin_prefetch(texel + 16);
}

struct Tap {
  int64_t texel;
  float weight;
};

// first [count * planes + 1]: where the list of each point and plane begins. Returns the length of the list.
template <class F>
int list_taps(const Sampling& s, const Tile<F>& tile, Tap* taps, int* first) {
  int listed = 0;
  for (int point = 0; point < tile.count; ++point) {
    for (int plane = 0; plane < s.planes; ++plane) {
      *first++ = listed;
      for (int tap = 0; tap < 4; ++tap) {
        taps[listed] = {tile.texel_of(s, plane, tap, point), tile.weight[plane][tap][point]};
        listed += taps[listed].weight != 0.0f;  // outside; the texel nearby may be anything
      }
    }
  }
  *first = listed;
  return listed;
}

// out [kVectors * F::width] = weighted sum of texels
template <class F, int kVectors>
TALK3D_HD void weigh(const float* planes, const Tap* begin, const Tap* end, float* out) {
  F sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = F(0.0f);
  for (const Tap* tap = begin; tap < end; ++tap) {
    const F weight(tap->weight);
    for (int v = 0; v < kVectors; ++v) sums[v] = fma(weight, F::load(planes + tap->texel + v * F::width), sums[v]);
  }
  for (int v = 0; v < kVectors; ++v) sums[v].store(out + v * F::width);
}

template <class F>
void sample(const Sampling& s, const float* planes, const float* points, float* features, int64_t begin, int64_t end) {
  Tap taps[kTaps];
  int first[kRows + 1];
  const int together = s.mean ? s.planes : 1;  // planes that share a row of features
  while (begin < end) {
    const Tile<F> tile(s, points, begin, end);
    const int listed = list_taps(s, tile, taps, first);
    for (int tap = 0; tap < kAhead && tap < listed; ++tap) fetch(planes + taps[tap].texel, s.channels);
    for (int row = 0; row < tile.count * s.planes; row += together) {
      const Tap *from = taps + first[row], *to = taps + first[row + together];
      for (const Tap* tap = from + kAhead; tap < to + kAhead && tap < taps + listed; ++tap)
        fetch(planes + tap->texel, s.channels);
      float* out = features + tile.row_of(s, row % s.planes, row / s.planes);
      int c = 0;
      for (; c + kHeld <= s.channels; c += kHeld) weigh<F, kHeld / F::width>(planes + c, from, to, out + c);
      for (; c + F::width <= s.channels; c += F::width) weigh<F, 1>(planes + c, from, to, out + c);
      for (; c < s.channels; ++c) weigh<Lane, 1>(planes + c, from, to, out + c);
    }
    begin += tile.count;
  }
}

struct Slope {
  int64_t texel;
  float across, along;  // of the tap's weight
};

template <class F>
int list_slopes(const Sampling& s, const Tile<F>& tile, Slope* slopes, int* first) {
  int listed = 0;
  for (int point = 0; point < tile.count; ++point) {
    for (int plane = 0; plane < s.planes; ++plane) {
      *first++ = listed;
      const float x = tile.across[plane][point], y = tile.along[plane][point];
      const float across[4] = {y - 1.0f, 1.0f - y, -y, y}, along[4] = {x - 1.0f, -x, 1.0f - x, x};
      for (int tap = 0; tap < 4; ++tap) {
        slopes[listed] = {tile.texel_of(s, plane, tap, point), across[tap], along[tap]};
        listed += tile.inside[plane][tap][point] != 0.0f;
      }
    }
  }
  *first = listed;
  return listed;
}

// Add what the features are worth along both sides of the plane, for channels [c, c + F::width).
template <class F>
TALK3D_HD void climb(const float* planes, const float* d_feature, const Slope* begin, const Slope* end, F* d_place) {
  const F d_channel = F::load(d_feature);
  for (const Slope* slope = begin; slope < end; ++slope) {
    const F worth = d_channel * F::load(planes + slope->texel);
    d_place[0] = fma(F(slope->across), worth, d_place[0]);
    d_place[1] = fma(F(slope->along), worth, d_place[1]);
  }
}

template <class F>
void differentiate_points(const Sampling& s,
                          const float* d_features,
                          const float* planes,
                          const float* points,
                          float* d_points,
                          int64_t begin,
                          int64_t end) {
  Slope slopes[kTaps];
  int first[kRows + 1];
  const float half = 0.5f * s.scale * s.share;
  while (begin < end) {
    const Tile<F> tile(s, points, begin, end);
    const int listed = list_slopes(s, tile, slopes, first);
    for (int tap = 0; tap < kAhead && tap < listed; ++tap) fetch(planes + slopes[tap].texel, s.channels);
    for (int row = 0; row < tile.count * s.planes; ++row) {
      const int plane = row % s.planes, point = row / s.planes;
      const Slope *from = slopes + first[row], *to = slopes + first[row + 1];
      for (const Slope* tap = from + kAhead; tap < to + kAhead && tap < slopes + listed; ++tap)
        fetch(planes + tap->texel, s.channels);
      const float* d_feature = d_features + tile.row_of(s, plane, point);
      F lanes[2] = {F(0.0f), F(0.0f)};
      Lane rest[2] = {0.0f, 0.0f};
      int c = 0;
      for (; c + F::width <= s.channels; c += F::width) climb<F>(planes + c, d_feature + c, from, to, lanes);
      for (; c < s.channels; ++c) climb<Lane>(planes + c, d_feature + c, from, to, rest);
      float* d_point = d_points + 3 * (tile.begin + point);
      if (plane == 0) d_point[0] = d_point[1] = d_point[2] = 0.0f;
      d_point[s.pairs[2 * plane]] += (sum(lanes[0]) + rest[0].v) * half * static_cast<float>(s.width);
      d_point[s.pairs[2 * plane + 1]] += (sum(lanes[1]) + rest[1].v) * half * static_cast<float>(s.height);
    }
    begin += tile.count;
  }
}

struct Share {
  int64_t texel, row;
  float weight;
};

template <class F>
int list_shares(const Sampling& s, const Bands& bands, const Tile<F>& tile, Share* shares) {
  int listed = 0;
  for (int point = 0; point < tile.count; ++point) {
    for (int plane = 0; plane < s.planes; ++plane) {
      const int64_t number = (tile.texels + plane * s.plane_stride) / s.channels;
      for (int tap = 0; tap < 4; ++tap) {
        const float weight = tile.weight[plane][tap][point];
        shares[listed] = {tile.texel_of(s, plane, tap, point), tile.row_of(s, plane, point), weight};
        listed += bands.owned[(number + tile.texel[plane][tap][point]) >> bands.shift] & (weight != 0.0f);
      }
    }
  }
  return listed;
}

// All points: a texel meets them in their order, whoever owns it.
template <class F>
void scatter(const Sampling& s, const Bands& bands, const float* d_features, const float* points, float* d_planes) {
  Share shares[kTaps];
  for (int64_t begin = 0; begin < s.points;) {
    const Tile<F> tile(s, points, begin, s.points);
    const int listed = list_shares(s, bands, tile, shares);
    for (int k = 0; k < kAhead && k < listed; ++k) fetch(d_planes + shares[k].texel, s.channels);
    for (int k = 0; k < listed; ++k) {
      if (k + kAhead < listed) fetch(d_planes + shares[k + kAhead].texel, s.channels);
      const float weight = shares[k].weight, *from = d_features + shares[k].row;
      float* to = d_planes + shares[k].texel;
      int c = 0;
      for (; c + F::width <= s.channels; c += F::width)
        fma(F(weight), F::load(from + c), F::load(to + c)).store(to + c);
      for (; c < s.channels; ++c) to[c] += weight * from[c];
    }
    begin += tile.count;
  }
}

}  // namespace
}  // namespace talk3d
