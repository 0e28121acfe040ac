// The gradient of the decoder: sums over samples of products of what flows back with what flowed there. Tensor cores
// take the sums over the 16 samples of a tile; a warp adds them up in fragments of its own in shared memory, in the
// order of its samples, and a block adds its warps in theirs. Nothing depends on who comes first.
#pragma once

#include <type_traits>

#include "cuda/volume_float.h"
#include "cuda/volume_half.h"

namespace talk3d {

// A matrix of numbers or of sums of two halves, transposed within its tiles of 8 x 8, see simt.h.
TALK3D_DEVICE Split transpose(Split a) {
  Split found;
  found.head = transpose(a.head);
  found.rest = transpose(a.rest);
  return found;
}

// c + a b
TALK3D_DEVICE Floats4 product(Pair a0, Pair a1, Pair a2, Pair a3, Pair b0, Pair b1, Floats4 c) {
  return mma(a0, a1, a2, a3, b0.bits, b1.bits, c);
}
TALK3D_DEVICE Floats4 product(Split a0, Split a1, Split a2, Split a3, Split b0, Split b1, Floats4 c) {
  c = mma(a0.rest, a1.rest, a2.rest, a3.rest, b0.head.bits, b1.head.bits, c);
  c = mma(a0.head, a1.head, a2.head, a3.head, b0.rest.bits, b1.rest.bits, c);
  return mma(a0.head, a1.head, a2.head, a3.head, b0.head.bits, b1.head.bits, c);
}

// Of a warp. With rows of hidden units in order and columns of channels or colours as color_of() numbers them:
struct DecoderSums {
  Floats4 w0[4][4][32];    // sixteen hidden units, eight channels
  Floats4 w1[2][8][32];    // sixteen colours, eight hidden units
  Floats4 hidden[4][32];   // sixteen hidden units: column 0 weights of the density, column 1 biases of the first layer
  Floats4 color[2][32];    // sixteen colours: column 1 their biases
  float density_bias[32];  // of each lane

  static constexpr int kFloats = (16 + 16 + 4 + 2) * 32 * 4 + 32;

  TALK3D_DEVICE float* floats() { return reinterpret_cast<float*>(this); }
  TALK3D_DEVICE void clear(int lane) {
    for (int at = lane; at < kFloats; at += 32) floats()[at] = 0.0f;
  }

  // Where the number of a fragment stands for row g or g + 8 and a column.
  TALK3D_HD static const float& number(const Floats4 (&fragment)[32], int row, int column) {
    const Floats4& of = fragment[row % 8 * 4 + column / 2];
    return row < 8 ? (column % 2 ? of.y : of.x) : (column % 2 ? of.w : of.z);
  }
  // The sum that belongs to number `at` of the flat decoder.
  TALK3D_HD float flat(int at) const {
    constexpr int b0_at = kHidden * kChannels, w1_at = b0_at + kHidden, b1_at = w1_at + (1 + kChannels) * kHidden;
    // color_of(j, column) = 8 (column / 2) + 2 j + column % 2
    const auto tile = [](int color) { return color % 8 / 2; };
    const auto column = [](int color) { return 2 * (color / 8) + color % 2; };
    if (at < b0_at) {
      const int unit = at / kChannels, channel = at % kChannels;
      return number(w0[unit / 16][tile(channel)], unit % 16, column(channel));
    }
    if (at < w1_at) return number(hidden[(at - b0_at) / 16], (at - b0_at) % 16, 1);
    if (at < b1_at) {
      const int out = (at - w1_at) / kHidden, unit = (at - w1_at) % kHidden;
      if (out == 0) return number(hidden[unit / 16], unit % 16, 0);
      const int j = tile(out - 1);
      return number(w1[j / 2][unit / 8], 8 * (j % 2) + column(out - 1), unit % 8);
    }
    if (at > b1_at) {
      const int color_number = at - b1_at - 1, j = tile(color_number);
      return number(color[j / 2], 8 * (j % 2) + column(color_number), 1);
    }
    float sum = 0.0f;
    for (int lane = 0; lane < 32; ++lane) sum += density_bias[lane];
    return sum;
  }
};

// The sums of one tile, on the way: what flows back comes layer by layer.
template <class Operand>
class TileSums {
 public:
  // By which its factors are multiplied, and sums are divided.
  struct Scales {
    float hidden, features, d_out, d_hidden;
  };

  // features: of rows g and g + 8, four pairs of channels each. d_density: of the same rows.
  TALK3D_DEVICE TileSums(DecoderSums& to,
                         const Place& place,
                         const Scales& scales,
                         const Operand (&features)[2][4],
                         const float (&d_density)[2])
      : to_(to),
        lane_(place.lane),
        by_out_(1.0f / scales.d_out),
        by_w1_(by_out_ / scales.hidden),
        by_hidden_(1.0f / scales.d_hidden),
        by_w0_(by_hidden_ / scales.features) {
#pragma unroll
    for (int c = 0; c < 4; ++c)
#pragma unroll
      for (int row = 0; row < 2; ++row) features_[c][row] = transpose(features[row][c]);
    // columns of eight samples, as a right operand has them
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float first = shuffle(d_density[row], 8 * place.t), second = shuffle(d_density[row], 8 * place.t + 4);
      const float one = place.g == 1 ? 1.0f : 0.0f;
      d_density_[row] = place.g == 0 ? make(first, second) : make(0.0f, 0.0f);
      ones_[row] = make(one, one);
    }
    to.density_bias[lane_] += place.t == 0 ? (d_density[0] + d_density[1]) * by_out_ : 0.0f;
  }

  // Of the colours' tile k, both rows of samples.
  TALK3D_DEVICE void put_out(int k, Operand first, Operand second) {
    d_out_[k][0] = transpose(first);
    d_out_[k][1] = transpose(second);
    if (k % 2 == 0) return;
    const auto &a = d_out_[k - 1], &b = d_out_[k];
    add(to_.color[k / 2], product(a[0], b[0], a[1], b[1], ones_[0], ones_[1], {}), by_out_);
  }

  // Sixteen hidden units, and what flows back to them: left operands.
  TALK3D_DEVICE void put_hidden(int step, const Operand (&hidden)[4], const Operand (&d_hidden)[4]) {
    Operand h[4], d[4];  // transposed: two tiles of units, of both rows of samples
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      h[k] = transpose(hidden[k]);
      d[k] = transpose(d_hidden[k]);
    }
    add(to_.hidden[step], product(h[0], h[2], h[1], h[3], d_density_[0], d_density_[1], {}), by_w1_);
    add(to_.hidden[step], product(d[0], d[2], d[1], d[3], ones_[0], ones_[1], {}), by_hidden_);
#pragma unroll
    for (int c = 0; c < 4; ++c)
      add(to_.w0[step][c], product(d[0], d[2], d[1], d[3], features_[c][0], features_[c][1], {}), by_w0_);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const auto &a = d_out_[2 * m], &b = d_out_[2 * m + 1];
#pragma unroll
      for (int k = 0; k < 2; ++k)
        add(to_.w1[m][2 * step + k], product(a[0], b[0], a[1], b[1], h[2 * k], h[2 * k + 1], {}), by_w1_);
    }
  }

 private:
  TALK3D_DEVICE static Operand make(float left, float right) {
    if constexpr (std::is_same_v<Operand, Pair>) {
      return pack(left, right);
    } else {
      return Split(left, right);
    }
  }
  TALK3D_DEVICE void add(Floats4 (&to)[32], Floats4 value, float by) const {
    Floats4 sum = to[lane_];
    sum.x = fmaf(value.x, by, sum.x);
    sum.y = fmaf(value.y, by, sum.y);
    sum.z = fmaf(value.z, by, sum.z);
    sum.w = fmaf(value.w, by, sum.w);
    to[lane_] = sum;
  }

  DecoderSums& to_;
  const int lane_;
  const float by_out_, by_w1_, by_hidden_, by_w0_;
  Operand features_[4][2], d_density_[2], ones_[2], d_out_[4][2];
};

// Nothing to add up.
struct NoSums {
  template <class Operand>
  TALK3D_DEVICE void put_out(int, Operand, Operand) {}
  template <class Operand>
  TALK3D_DEVICE void put_hidden(int, const Operand (&)[4], const Operand (&)[4]) {}
};

}  // namespace talk3d
