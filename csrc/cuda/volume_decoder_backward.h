// The way back through the decoder: from the last layer's output to the features, on tensor cores.
#pragma once

#include "cuda/volume_float.h"
#include "cuda/volume_half.h"

namespace talk3d {

// The transposed decoder, as right operands.
struct HalfDecoderBackward {
  Quad w1[8][32];         // 32 colours to eight hidden units
  Floats4 density[8][4];  // for t: the density's weights of two hidden units, twice
  Quad w0[4][2][32];      // 64 hidden units to eight channels; of the mean over the planes

  TALK3D_DEVICE void fill(const float* flat, int thread) {
    const FlatDecoder from(flat);
    const auto packed = [](Two numbers, float by) { return pack(numbers.low * by, numbers.high * by).bits; };
    for (int at = thread; at < 8 * 32; at += kThreadsPerBlock) {
      const int j = at / 32, lane = at % 32;
      uint32_t words[4];
      for (int k = 0; k < 4; ++k) words[k] = packed(from.color_back(j, lane, k), 1.0f);
      w1[j][lane] = {words[0], words[1], words[2], words[3]};
      for (int k = 0; k < 4; ++k) words[k] = packed(from.first_back(j / 2, j % 2, lane, k), 1.0f / 3.0f);
      w0[j / 2][j % 2][lane] = {words[0], words[1], words[2], words[3]};
    }
    for (int at = thread; at < 8 * 4; at += kThreadsPerBlock) {
      const Two v = from.density_back(at / 4, at % 4);
      density[at / 4][at % 4] = {v.low, v.high, v.low, v.high};
    }
  }

  // Channels 8t to 8t + 7 of rows g and g + 8.
  template <class Hidden>
  TALK3D_DEVICE void differentiate(const Place& place,
                                   const Hidden& hidden,
                                   const float (&d_color)[2][8],
                                   const float (&d_density)[2],
                                   float (&d_features)[2][8]) const {
    Pair d_out[4][2];  // of a tile of colours: columns 2t and 2t + 1 of rows g and g + 8
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int row = 0; row < 2; ++row) d_out[k][row] = pack(d_color[row][2 * k], d_color[row][2 * k + 1]);
    Floats4 sums[4] = {};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      Pair d_hidden[4];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int j = 2 * step + k;
        const Quad w = w1[j][place.lane];
        const Floats4 v = density[j][place.t];
        Floats4 d = {v.x * d_density[0], v.y * d_density[0], v.z * d_density[1], v.w * d_density[1]};
        d = mma(d_out[0][0], d_out[0][1], d_out[1][0], d_out[1][1], w.x, w.y, d);
        d = mma(d_out[2][0], d_out[2][1], d_out[3][0], d_out[3][1], w.z, w.w, d);
        // the slope of softplus from its value: 1 - 2^-h, with h in base 2
        const Pair(&h)[4] = hidden.at[step];
        const auto slope = [](float h) { return 1.0f - exp2_fast(-h); };
        d_hidden[2 * k] = pack(d.x * slope(low(h[2 * k])), d.y * slope(high(h[2 * k])));
        d_hidden[2 * k + 1] = pack(d.z * slope(low(h[2 * k + 1])), d.w * slope(high(h[2 * k + 1])));
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Quad w = w0[j][step / 2][place.lane];
        sums[j] = mma(d_hidden[0], d_hidden[1], d_hidden[2], d_hidden[3], step % 2 ? w.z : w.x, step % 2 ? w.w : w.y,
                      sums[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      d_features[0][2 * j] = sums[j].x;
      d_features[0][2 * j + 1] = sums[j].y;
      d_features[1][2 * j] = sums[j].z;
      d_features[1][2 * j + 1] = sums[j].w;
    }
  }
};

// The same with floats as sums of two halves.
struct FloatDecoderBackward {
  SplitQuad w1[8][32];
  Floats4 density[8][4];
  SplitQuad w0[4][2][32];

  TALK3D_DEVICE void fill(const float* flat, int thread) {
    const FlatDecoder from(flat);
    for (int at = thread; at < 8 * 32; at += kThreadsPerBlock) {
      const int j = at / 32, lane = at % 32;
      w1[j][lane].fill(kWeightScale, [&](int k) { return from.color_back(j, lane, k); });
      w0[j / 2][j % 2][lane].fill(kWeightScale / 3.0f, [&](int k) { return from.first_back(j / 2, j % 2, lane, k); });
    }
    for (int at = thread; at < 8 * 4; at += kThreadsPerBlock) {
      const Two v = from.density_back(at / 4, at % 4) * kWeightScale;
      density[at / 4][at % 4] = {v.low, v.high, v.low, v.high};
    }
  }

  template <class Hidden>
  TALK3D_DEVICE void differentiate(const Place& place,
                                   const Hidden& hidden,
                                   const float (&d_color)[2][8],
                                   const float (&d_density)[2],
                                   float (&d_features)[2][8]) const {
    Split d_out[2][4];  // of two tiles of colours, a left operand
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int row = 0; row < 2; ++row)
        d_out[k / 2][2 * (k % 2) + row] = Split(d_color[row][2 * k], d_color[row][2 * k + 1]);
    Floats4 sums[4] = {};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      Split d_hidden[4];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int j = 2 * step + k;
        const SplitQuad w = w1[j][place.lane];
        const Floats4 v = density[j][place.t];
        Floats4 d = {v.x * d_density[0], v.y * d_density[0], v.z * d_density[1], v.w * d_density[1]};
        d = mma_rests(d_out[1], true, w, mma_rests(d_out[0], false, w, d));
        d = mma_heads(d_out[1], true, w, mma_heads(d_out[0], false, w, d));
        const Split(&h)[4] = hidden.at[step];
        const auto slope = [](float h) { return 1.0f - exp2_fast(h * (-1.0f / kHiddenScale)); };
        d_hidden[2 * k] = Split(d.x * slope(h[2 * k].left()), d.y * slope(h[2 * k].right()));
        d_hidden[2 * k + 1] = Split(d.z * slope(h[2 * k + 1].left()), d.w * slope(h[2 * k + 1].right()));
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const SplitQuad w = w0[j][step / 2][place.lane];
        sums[j] = mma_heads(d_hidden, step % 2, w, mma_rests(d_hidden, step % 2, w, sums[j]));
      }
    }
    constexpr float unscale = 1.0f / (kWeightScale * kWeightScale);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      d_features[0][2 * j] = sums[j].x * unscale;
      d_features[0][2 * j + 1] = sums[j].y * unscale;
      d_features[1][2 * j] = sums[j].z * unscale;
      d_features[1][2 * j + 1] = sums[j].w * unscale;
    }
  }
};

}  // namespace talk3d
