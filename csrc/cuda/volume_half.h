// What a warp's samples see and how it is decoded, with planes of 16 bits: bilinear sums in half precision, matrix
// products on tensor cores with sums in float32.
//
// The layout does the work. A texel is 64 bytes; the four threads of a quad load 16 each, so that a thread holds
// channels 8t to 8t + 7 of the rows g and g + 8. These are its share of the first product's left operand, if the
// columns of that product are numbered accordingly; the accumulators of the first layer, packed, are the left operand
// of the second. Nothing is moved between threads, but for the taps: each thread finds those of one sample, for all
// four.
#pragma once

#include "cuda/volume_decoder.h"

namespace talk3d {

// The decoder as right operands of the tensor cores, in the shared memory of a block. The mean over the planes and the
// base of the logarithms are folded in: hidden units are softplus / ln 2 of their input, and colours come as x / 2.
struct HalfDecoder {
  Quad w0[8][32];     // eight hidden units; for a lane, all its channels
  Floats4 b0[8][4];   // for t: two biases, twice
  Quad w1[4][2][32];  // sixteen hidden units to two times eight colours
  Floats4 b1[4][4];
  Quad density[2][4];  // for t: twice sixteen hidden units to the density, the same in every column
  float density_bias;

  TALK3D_DEVICE void fill(const float* flat, int thread) {
    const FlatDecoder from(flat);
    const auto packed = [](Two numbers, float by) { return pack(numbers.low * by, numbers.high * by).bits; };
    for (int at = thread; at < 8 * 32; at += kThreadsPerBlock) {
      const int j = at / 32, lane = at % 32;
      uint32_t words[4];
      for (int k = 0; k < 4; ++k) words[k] = packed(from.first(j, lane, k), kLog2E / 3.0f);
      w0[j][lane] = {words[0], words[1], words[2], words[3]};
      for (int k = 0; k < 4; ++k) words[k] = packed(from.color(j / 2, j % 2, lane, k), 0.5f * kLn2);
      w1[j / 2][j % 2][lane] = {words[0], words[1], words[2], words[3]};
    }
    for (int at = thread; at < 2 * 4; at += kThreadsPerBlock) {
      uint32_t words[4];
      for (int k = 0; k < 4; ++k) words[k] = packed(from.density(at / 4, at % 4, k), kLn2);
      density[at / 4][at % 4] = {words[0], words[1], words[2], words[3]};
    }
    for (int at = thread; at < 8 * 4; at += kThreadsPerBlock) {
      const int j = at / 4, t = at % 4;
      const Two hidden = from.hidden_bias(j, t) * kLog2E;
      b0[j][t] = {hidden.low, hidden.high, hidden.low, hidden.high};
      if (j >= 4) continue;
      const Two color = from.color_bias(j, t) * 0.5f;
      b1[j][t] = {color.low, color.high, color.low, color.high};
    }
    if (thread == 0) density_bias = from.b1[0];
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

// log2(1 + e) and 2^-x for numbers that are not negative. The special function unit is off by 2^-22, which is much for
// a ray that meets next to nothing: near 0 their series have all digits.
TALK3D_DEVICE float log2_of_more(float e) {
  const float series = e * fmaf(e, fmaf(e, 0.48089835f, -0.72134752f), kLog2E);
  return e < 0x1p-6f ? series : log2_fast(1.0f + e);
}
TALK3D_DEVICE float exp2_of_less(float x) {
  const float series = fmaf(x, fmaf(x, fmaf(x, -0.055504109f, 0.24022651f), -kLn2), 1.0f);
  return x < 0x1p-5f ? series : exp2_fast(-x);
}

struct HalfDecoderBackward;

template <int kPlanes>
class HalfField {
 public:
  using Decoder = HalfDecoder;
  using Backward = HalfDecoderBackward;
  static constexpr int kBlocks = 3;  // on a multiprocessor: 168 registers for a thread
  static constexpr int kTexelBytes = 2 * kChannels;
  static constexpr int kSampleBytes = 16 * kPlanes;
  // of the taps of a quad's four samples: the last 16 bytes spread the quads over the banks of the memory
  static constexpr int kQuadBytes = 4 * kSampleBytes + 16;
  static constexpr int kTapBytes = 8 * kQuadBytes;  // of a warp
  using Operand = Pair;
  struct Features {
    Pair at[2][4];  // of rows g and g + 8: channels 8t to 8t + 7; the left operand of the first layer
  };
  static constexpr float kFeatureScale = 3.0f, kHiddenScale = 1 / kLn2;  // they come as so many times what they are
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
        base_(reinterpret_cast<const Texel*>(texels.data + camera * texels.batch_stride + 16 * place.t)),
        line_(texels, ray) {}

  // The features that the warp's samples see, to hidden activations and raw densities; this thread's sample lies at
  // `depth`. The density, without its bias, is that of row g (`[tile][0]`) or g + 8.
  TALK3D_DEVICE void evaluate(float depth, Hidden& nearer, Hidden& farther, float (&density)[2][2]) {
    Hidden* const hidden[2] = {&nearer, &farther};
    look(depth);
    Features features[2];
    decode(0, hidden, features);
    sync_warp();
    Floats4 raw[2] = {};
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

  // What evaluate() does in two steps. First everybody's taps, for this thread's sample at `depth`; no thread may still
  // be reading the last ones.
  TALK3D_DEVICE void look(float depth) {
    project(depth);
    sync_warp();
  }
  // Then the hidden activations of some tiles from `first` on; the taps stay.
  template <int kTiles>
  TALK3D_DEVICE void decode(int first, Hidden* const (&hidden)[kTiles], Features (&features)[kTiles]) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int row = 0; row < 2; ++row) gather(2 * (first + tile) + row, features[tile].at[row]);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const Quad w = decoder_.w0[j][lane_];
      const Floats4 bias = decoder_.b0[j][lane_ % 4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const auto& f = features[tile].at;
        Floats4 sum = mma(f[0][0], f[1][0], f[0][1], f[1][1], w.x, w.y, bias);
        sum = mma(f[0][2], f[1][2], f[0][3], f[1][3], w.z, w.w, sum);
        hidden[tile]->at[j / 2][2 * (j % 2)] = softplus2(sum.x, sum.y);
        hidden[tile]->at[j / 2][2 * (j % 2) + 1] = softplus2(sum.z, sum.w);
      }
    }
  }

  // tanh(x / 2) of the colours' inputs x, of some tiles: rows g and g + 8, channels 8t to 8t + 7. Calls
  // use(tile, row, channel of the eight, value).
  template <int kTiles, class Use>
  TALK3D_DEVICE void for_each_color(const Hidden* const (&hidden)[kTiles], Use use) const {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      Floats4 out[kTiles][2];  // tile, half of the pair
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Quad w = decoder_.w1[step][pair][lane_];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const Pair(&h)[4] = hidden[tile]->at[step];
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const Floats4 start = step == 0 ? decoder_.b1[2 * pair + k][lane_ % 4] : out[tile][k];
            out[tile][k] = mma(h[0], h[1], h[2], h[3], k ? w.z : w.x, k ? w.w : w.y, start);
          }
        }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
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
    const Hidden* const hidden[2] = {&nearer, &farther};
    for_each_color(hidden, [&](int tile, int row, int channel, float color) {
      sums[row][channel] = fmaf(share[tile][row], color, sums[row][channel]);
    });
  }

  // What the interval between two samples lets through, as common/march.h has it.
  TALK3D_DEVICE float transparency(float density, float next_density, float gap) const {
    float rise;
    return transparency(density, next_density, gap, rise);
  }
  // The same, and the derivative of the opacity with respect to either density.
  TALK3D_DEVICE float transparency(float density, float next_density, float gap, float& rise) const {
    const float raw = fmaf(density + next_density, 0.5f * kLog2E, offset_);  // in base 2
    const float e = exp2_fast(-fabsf(raw)), thick = fmaxf(raw, 0.0f) + log2_of_more(e);
    const float clear = exp2_of_less(thick * gap);
    rise = 0.5f * gap * clear * ((raw < 0.0f ? e : 1.0f) * reciprocal_fast(1.0f + e));
    return clear;
  }

  // For the gradient. Where on a plane the texels around sample `number` of the quad lie and what they weigh:
  // use(texel, weight).
  template <class Use>
  TALK3D_DEVICE void for_each_tap(int plane, int number, Use use) const {
    const Quad taps = *reinterpret_cast<const Quad*>(quad_ + number * kSampleBytes + 16 * plane);
    use(taps.x, low({taps.z}));
    use(taps.x + 1, high({taps.z}));
    use(taps.y, low({taps.w}));
    use(taps.y + 1, high({taps.w}));
  }
  TALK3D_DEVICE const Line& line() const { return line_; }
  TALK3D_DEVICE const Texels& texels() const { return texels_; }

  // The gradient of the place of sample `number` from that of the features it sees, this thread's channels.
  TALK3D_DEVICE void differentiate_place(int number, const float (&d_features)[8], float (&d_place)[3]) const {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Quad taps = *reinterpret_cast<const Quad*>(quad_ + number * kSampleBytes + 16 * p);
      const Texel* const rows[2] = {base_ + taps.x, base_ + taps.y};
      float d_weights[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Quad texel = load_quad(rows[k / 2][k % 2].at);
        const Pair channels[4] = {{texel.x}, {texel.y}, {texel.z}, {texel.w}};
        d_weights[k] = 0.0f;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          d_weights[k] = fmaf(low(channels[c]), d_features[2 * c], d_weights[k]);
          d_weights[k] = fmaf(high(channels[c]), d_features[2 * c + 1], d_weights[k]);
        }
      }
      const Pair above{taps.z}, below{taps.w};
      differentiate_cell(p, {low(above), high(above), low(below), high(below)}, d_weights, d_place);
    }
  }
  TALK3D_DEVICE bool moves(int axis, float depth) const { return line_.moves(axis, depth); }

  // A colour is 1.002 sigmoid(x) - 0.001, here with its half tangent; a feature is twice the sum of what is seen,
  // less 1.
  TALK3D_DEVICE static float feature(float color) { return fmaf(color, 1.002f, 1.0f); }
  TALK3D_DEVICE static float slope(float color) { return 0.501f * fmaf(-color, color, 1.0f); }  // to x
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
      float within;
      cell[axis] = line_.cell(texels_, axis, depth, within);
      share[axis] = pack(1.0f - within, within);
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
  const Line line_;
};

}  // namespace talk3d
