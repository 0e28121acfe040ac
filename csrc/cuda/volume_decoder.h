// Where the numbers of the decoder stand as operands of the tensor cores. Each function says which two numbers of the
// flat decoder the word `k` of a lane holds; fields scale them and pack them as they need.
#pragma once

#include "cuda/volume.h"

namespace talk3d {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct Two {
  float low, high;

  TALK3D_HD Two operator*(float by) const { return {low * by, high * by}; }
};

// Column `column` of the colours' tile j: so that a thread ends with channels 8t to 8t + 7.
TALK3D_HD int color_of(int j, int column) { return 8 * (column / 2) + 2 * j + column % 2; }

struct FlatDecoder {
  const float *w0, *b0, *w1, *b1;  // row 0 of the last layer is density

  TALK3D_HD explicit FlatDecoder(const float* flat)
      : w0(flat), b0(w0 + kHidden * kChannels), w1(b0 + kHidden), b1(w1 + (1 + kChannels) * kHidden) {}

  // Right operands, eight columns of 32 rows: of the hidden units 8j to 8j + 7, all channels in the order of a quad.
  TALK3D_HD Two first(int j, int lane, int k) const {
    const float* from = w0 + (8 * j + lane / 4) * kChannels + 8 * (lane % 4) + 2 * k;
    return {from[0], from[1]};
  }
  // Of sixteen hidden units, to the colours' tiles 2 * pair and 2 * pair + 1: two words each.
  TALK3D_HD Two color(int step, int pair, int lane, int k) const {
    const float* from =
        w1 + (1 + color_of(2 * pair + k / 2, lane / 4)) * kHidden + 16 * step + 8 * (k % 2) + 2 * (lane % 4);
    return {from[0], from[1]};
  }
  // Of 32 hidden units to the density, the same in every column.
  TALK3D_HD Two density(int half, int t, int k) const {
    const float* from = w1 + 32 * half + 8 * k + 2 * t;
    return {from[0], from[1]};
  }
  // Biases of the columns 2t and 2t + 1.
  TALK3D_HD Two hidden_bias(int j, int t) const { return {b0[8 * j + 2 * t], b0[8 * j + 2 * t + 1]}; }
  TALK3D_HD Two color_bias(int j, int t) const { return {b1[1 + color_of(j, 2 * t)], b1[1 + color_of(j, 2 * t + 1)]}; }

  // For the way back: of the 32 colours, to the hidden units 8j to 8j + 7; word k is of the colours' tile k.
  TALK3D_HD Two color_back(int j, int lane, int k) const {
    const float* from = w1 + 8 * j + lane / 4;
    return {from[(1 + color_of(k, 2 * (lane % 4))) * kHidden], from[(1 + color_of(k, 2 * (lane % 4) + 1)) * kHidden]};
  }
  // Of 32 hidden units, to the eight channels of the tile j, numbered as colours are.
  TALK3D_HD Two first_back(int j, int half, int lane, int k) const {
    const float* from = w0 + (32 * half + 8 * k + 2 * (lane % 4)) * kChannels + color_of(j, lane / 4);
    return {from[0], from[kChannels]};
  }
  // The density's weights of the hidden units 8j + 2t and the next.
  TALK3D_HD Two density_back(int j, int t) const { return {w1[8 * j + 2 * t], w1[8 * j + 2 * t + 1]}; }
};

}  // namespace talk3d
