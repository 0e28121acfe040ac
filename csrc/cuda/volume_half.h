// What a warp's samples see and how it is decoded, with planes of 16 bits: bilinear sums in half precision, matrix
// products on tensor cores with sums in float32.
//
// The layout does the work. A texel is 64 bytes; the four threads of a quad load 16 each, so that a thread holds
// channels 8t to 8t + 7 of the rows g and g + 8. These are its share of the first product's left operand, if the
// columns of that product are numbered accordingly; the accumulators of the first layer, packed, are the left operand
// of the second. Nothing is moved between threads, but for the taps: each thread finds those of one sample, for all
// four.
#pragma once

#include "cuda/volume.h"

namespace talk3d {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// The decoder as right operands of the tensor cores, in the shared memory of a block. The mean over the planes and the
// base of the logarithms are folded in: hidden units are softplus / ln 2 of their input, and colours come as x / 2.
struct HalfDecoder {
  Quad w0[8][32];     // eight hidden units; for a lane, all its channels
  Floats4 b0[8][4];   // for t: two biases, twice
  Quad w1[4][2][32];  // sixteen hidden units to two times eight colours
  Floats4 b1[4][4];
  Quad density[2][4];  // for t: twice sixteen hidden units to the density, the same in every column
  float density_bias;

  // Column `column` of the colours' tile j: so that a thread ends with channels 8t to 8t + 7.
  TALK3D_HD static int color_of(int j, int column) { return 8 * (column / 2) + 2 * j + column % 2; }

  TALK3D_DEVICE void fill(const float* flat, int thread) {
    const float* flat_b0 = flat + kHidden * kChannels;
    const float* flat_w1 = flat_b0 + kHidden;  // row 0 is density
    const float* flat_b1 = flat_w1 + (1 + kChannels) * kHidden;
    for (int at = thread; at < 8 * 32; at += kThreadsPerBlock) {
      const int lane = at % 32, g = lane / 4, t = lane % 4;
      const float* row = flat + (8 * (at / 32) + g) * kChannels + 8 * t;
      uint32_t words[4];
      for (int k = 0; k < 4; ++k) words[k] = pack(row[2 * k] * (kLog2E / 3.0f), row[2 * k + 1] * (kLog2E / 3.0f)).bits;
      w0[at / 32][lane] = {words[0], words[1], words[2], words[3]};
      const int step = at / 64, j = 2 * (at / 32 % 2);  // of the hidden units; the first of two tiles of colours
      for (int k = 0; k < 4; ++k) {
        const float* from = flat_w1 + (1 + color_of(j + k / 2, g)) * kHidden + 16 * step + 8 * (k % 2) + 2 * t;
        words[k] = pack(from[0] * (0.5f * kLn2), from[1] * (0.5f * kLn2)).bits;
      }
      w1[step][at / 32 % 2][lane] = {words[0], words[1], words[2], words[3]};
    }
    for (int at = thread; at < 2 * 4; at += kThreadsPerBlock) {
      uint32_t words[4];
      for (int k = 0; k < 4; ++k) {
        const float* from = flat_w1 + 32 * (at / 4) + 8 * k + 2 * (at % 4);
        words[k] = pack(from[0] * kLn2, from[1] * kLn2).bits;
      }
      density[at / 4][at % 4] = {words[0], words[1], words[2], words[3]};
    }
    for (int at = thread; at < 8 * 4; at += kThreadsPerBlock) {
      const int j = at / 4, t = at % 4;
      const float* from = flat_b0 + 8 * j + 2 * t;
      b0[j][t] = {from[0] * kLog2E, from[1] * kLog2E, from[0] * kLog2E, from[1] * kLog2E};
      if (j >= 4) continue;
      const float left = 0.5f * flat_b1[1 + color_of(j, 2 * t)], right = 0.5f * flat_b1[1 + color_of(j, 2 * t + 1)];
      b1[j][t] = {left, right, left, right};
    }
    if (thread == 0) density_bias = flat_b1[0];
  }
};

// log2(1 + 2^y) of two numbers. Of the two roundings to half precision, that of the result is the larger error: the
// quartic, a minimax of log2(1 + z) on [0, 1], is off by 1e-4.
TALK3D_DEVICE Pair softplus2(float left, float right) {
  const Pair z = pack(exp2_fast(-fabsf(left)), exp2_fast(-fabsf(right)));
  Pair p = fma(z, twice(-0.08476872f), twice(0.32559582f));
  p = fma(p, z, twice(-0.67994414f));
  p = fma(p, z, twice(1.4390147f));
  return fma(p, z, pack_positive(left, right));
}

template <int kPlanes>
class HalfField {
 public:
  using Decoder = HalfDecoder;
  static constexpr int kBlocks = 3;  // on a multiprocessor: 168 registers for a thread
  static constexpr int kTexelBytes = 2 * kChannels;
  static constexpr int kSampleBytes = 16 * kPlanes;
  // of the taps of a quad's four samples: the last 16 bytes spread the quads over the banks of the memory
  static constexpr int kQuadBytes = 4 * kSampleBytes + 16;
  static constexpr int kTapBytes = 8 * kQuadBytes;  // of a warp
  struct Hidden {
    Pair at[4][4];  // of 16 rows: left operands for 16 units each
  };
  struct Waiting {
    Quad at[4][32];  // the hidden activations of a warp's tile, out of the way of its registers

    TALK3D_DEVICE void put(const Hidden& hidden, int lane) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Pair(&h)[4] = hidden.at[step];
        at[step][lane] = {h[0].bits, h[1].bits, h[2].bits, h[3].bits};
      }
    }
    TALK3D_DEVICE Hidden get(int lane) const {
      Hidden hidden;
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Quad found = at[step][lane];
        hidden.at[step][0].bits = found.x;
        hidden.at[step][1].bits = found.y;
        hidden.at[step][2].bits = found.z;
        hidden.at[step][3].bits = found.w;
      }
      return hidden;
    }
  };

  TALK3D_DEVICE HalfField(
      const Texels& texels, const Decoder& shared, char* taps, const Place& place, int64_t camera, const float* ray)
      : texels_(texels),
        decoder_(shared),
        mine_(taps + place.g * kQuadBytes + place.t * kSampleBytes),
        quad_(taps + place.g * kQuadBytes),
        lane_(place.lane),
        offset_((shared.density_bias - 1.0f) * kLog2E),
        base_(reinterpret_cast<const Texel*>(texels.data + camera * texels.batch_stride + 16 * place.t)) {
    // from 0 on the first texel of the border to 1 on the last
    const float size = static_cast<float>(texels.size), scale = 0.5f * texels.scale * size / (size + 1.0f);
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      origin_[axis] = fmaf(ray[axis], scale, 0.5f);
      direction_[axis] = ray[3 + axis] * scale;
    }
  }

  // The features that the warp's samples see, to hidden activations and raw densities; this thread's sample lies at
  // `depth`. The density, without its bias, is that of row
  // g (`[tile][0]`) or g + 8.
  TALK3D_DEVICE void evaluate(float depth, Hidden& nearer, Hidden& farther, float (&density)[2][2]) {
    Hidden* const hidden[2] = {&nearer, &farther};
    project(depth);
    sync_warp();
    Pair features[2][2][4];
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int row = 0; row < 2; ++row) gather(2 * tile + row, features[tile][row]);
    sync_warp();
    Floats4 raw[2] = {};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const Quad w = decoder_.w0[j][lane_];
      const Floats4 bias = decoder_.b0[j][lane_ % 4];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const auto& f = features[tile];
        Floats4 sum = mma(f[0][0], f[1][0], f[0][1], f[1][1], w.x, w.y, bias);
        sum = mma(f[0][2], f[1][2], f[0][3], f[1][3], w.z, w.w, sum);
        hidden[tile]->at[j / 2][2 * (j % 2)] = softplus2(sum.x, sum.y);
        hidden[tile]->at[j / 2][2 * (j % 2) + 1] = softplus2(sum.z, sum.w);
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const Quad w = decoder_.density[step / 2][lane_ % 4];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const Pair(&h)[4] = hidden[tile]->at[step];
        raw[tile] = mma(h[0], h[1], h[2], h[3], step % 2 ? w.z : w.x, step % 2 ? w.w : w.y, raw[tile]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      density[tile][0] = raw[tile].x;
      density[tile][1] = raw[tile].z;
    }
  }

  // tanh(x / 2) of the colours' inputs x, of two tiles: rows g and g + 8, channels 8t to 8t + 7. Calls
  // use(tile, row, channel of the eight, value).
  template <class Use>
  TALK3D_DEVICE void for_each_color(const Hidden& nearer, const Hidden& farther, Use use) const {
    const Hidden* const hidden[2] = {&nearer, &farther};
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      Floats4 out[2][2];  // tile, half of the pair
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Quad w = decoder_.w1[step][pair][lane_];
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          const Pair(&h)[4] = hidden[tile]->at[step];
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const Floats4 start = step == 0 ? decoder_.b1[2 * pair + k][lane_ % 4] : out[tile][k];
            out[tile][k] = mma(h[0], h[1], h[2], h[3], k ? w.z : w.x, k ? w.w : w.y, start);
          }
        }
      }
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int channel = 4 * pair + 2 * k;
          const Floats4 x = out[tile][k];
          use(tile, 0, channel, tanh_fast(x.x));
          use(tile, 0, channel + 1, tanh_fast(x.y));
          use(tile, 1, channel, tanh_fast(x.z));
          use(tile, 1, channel + 1, tanh_fast(x.w));
        }
    }
  }

  // Adds the colours of two tiles to the sums of rows g and g + 8, each by its share.
  TALK3D_DEVICE void add_colors(const Hidden& nearer,
                                const Hidden& farther,
                                const float (&share)[2][2],
                                float (&sums)[2][8]) const {
    for_each_color(nearer, farther, [&](int tile, int row, int channel, float color) {
      sums[row][channel] = fmaf(share[tile][row], color, sums[row][channel]);
    });
  }

  // What the interval between two samples lets through, as common/march.h has it: off by 2^-22, which is less than what
  // the densities have lost.
  TALK3D_DEVICE float transparency(float density, float next_density, float gap) const {
    float rise;
    return transparency(density, next_density, gap, rise);
  }
  // The same, and the derivative of the opacity with respect to either density.
  TALK3D_DEVICE float transparency(float density, float next_density, float gap, float& rise) const {
    const float raw = fmaf(density + next_density, 0.5f * kLog2E, offset_);  // in base 2
    const float e = exp2_fast(-fabsf(raw)), thick = fmaxf(raw, 0.0f) + log2_fast(1.0f + e);
    const float clear = exp2_fast(-thick * gap);
    rise = 0.5f * gap * clear * ((raw < 0.0f ? e : 1.0f) * reciprocal_fast(1.0f + e));
    return clear;
  }

  // Where the texels around sample `number` of the quad lie and what they weigh: use(first texel of this thread's
  // channels, weight). For the gradient.
  template <class Use>
  TALK3D_DEVICE void for_each_tap(int number, Use use) const {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Quad taps = *reinterpret_cast<const Quad*>(quad_ + number * kSampleBytes + 16 * p);
      use(taps.x, low({taps.z}));
      use(taps.x + 1, high({taps.z}));
      use(taps.y, low({taps.w}));
      use(taps.y + 1, high({taps.w}));
    }
  }

  // The pixel of a sum of shared colours: 1.002 sigmoid(x) - 0.001, where the sum is of tanh(x / 2).
  TALK3D_DEVICE static float pixel(float sum, float weight) { return fmaf(sum, 0.501f, 0.5f * weight); }

 private:
  struct Texel {
    Quad at[kTexelBytes / sizeof(Quad)];
  };

  // The taps of this thread's sample: for each plane where two rows of texels begin, and the weights of two in each.
  TALK3D_DEVICE void project(float depth) {
    Pair share[3];  // of the nearer and the farther texel, along each axis
    uint32_t cell[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      // outside of the planes everything is as on the border
      const float u = fma_saturated(depth, direction_[axis], origin_[axis]);
      const float whole = fma_down(u, texels_.cells, Texels::kWhole);
      const float within = fmaf(u, texels_.cells, Texels::kWhole - whole);
      share[axis] = pack(1.0f - within, within);
      cell[axis] = bits_of(whole);
    }
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const int across = axis_across(p), along = axis_along(p);
      const uint32_t top = cell[along] * texels_.pitch + (cell[across] + texels_.first[p]);
      const Pair above = share[across] * low_twice(share[along]), below = share[across] * high_twice(share[along]);
      *reinterpret_cast<Quad*>(mine_ + 16 * p) = {top, top + texels_.pitch, above.bits, below.bits};
    }
  }

  // Sum over the planes of what sample `number` of the quad sees, this thread's channels.
  TALK3D_DEVICE void gather(int number, Pair (&sum)[4]) const {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Quad taps = *reinterpret_cast<const Quad*>(quad_ + number * kSampleBytes + 16 * p);
      const Texel* const rows[2] = {base_ + taps.x, base_ + taps.y};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Quad texel = load_quad(rows[k / 2][k % 2].at);
        const Pair weights{k < 2 ? taps.z : taps.w}, weight = k % 2 ? high_twice(weights) : low_twice(weights);
        const Pair channels[4] = {{texel.x}, {texel.y}, {texel.z}, {texel.w}};
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[c] = p + k == 0 ? weight * channels[c] : fma(weight, channels[c], sum[c]);
      }
    }
  }

  const Texels& texels_;
  const Decoder& decoder_;
  char *const mine_, *const quad_;
  const int lane_;
  const float offset_;  // the last layer's bias of the density, and that of its softplus
  const Texel* const base_;
  float origin_[3], direction_[3];
};

}  // namespace talk3d
