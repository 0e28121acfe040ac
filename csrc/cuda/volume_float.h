// What a warp's samples see and how it is decoded, with planes of float32. Tensor cores multiply halves: a number is
// the sum of two of them, and three of the four products of two sums are taken; what the fourth would add is below the
// last bit of a float. Everything else is as in volume_half.h, with floats in the place of halves.
#pragma once

#include "common/math.h"
#include "cuda/volume_decoder.h"

namespace talk3d {

// Halves below 2^-14 have fewer digits: features, weights and hidden activations are multiplied by powers of two, so
// that their smaller halves keep theirs. Beyond 65504 over these a number becomes infinite, and its difference to
// itself not a number.
constexpr float kFeatureScale = 4.0f, kWeightScale = 4.0f, kHiddenScale = kFeatureScale * kWeightScale;

// Two floats as two halves each.
struct Split {
  Pair head, rest;

  Split() = default;
  TALK3D_DEVICE Split(float left, float right) : head(pack(left, right)) {
    rest = pack(left - low(head), right - high(head));
  }
  TALK3D_DEVICE float left() const { return low(head) + low(rest); }
  TALK3D_DEVICE float right() const { return high(head) + high(rest); }
};

// Four words of a fragment, and beside them those of the smaller halves.
struct SplitQuad {
  Quad head, rest;

  // words(k): the numbers of word k, which are multiplied by `by`.
  template <class Words>
  TALK3D_DEVICE void fill(float by, Words words) {
    Split found[4];
    for (int k = 0; k < 4; ++k) found[k] = Split(words(k).low * by, words(k).high * by);
    head = {found[0].head.bits, found[1].head.bits, found[2].head.bits, found[3].head.bits};
    rest = {found[0].rest.bits, found[1].rest.bits, found[2].rest.bits, found[3].rest.bits};
  }
};

// c + the product of the larger halves with the first or (`second`) the last two words of a fragment.
TALK3D_DEVICE Floats4 mma_heads(const Split (&a)[4], bool second, const SplitQuad& b, Floats4 c) {
  const Quad& head = b.head;
  return mma(a[0].head, a[1].head, a[2].head, a[3].head, second ? head.z : head.x, second ? head.w : head.y, c);
}
// c + the two products of a larger and a smaller half. Of a long sum they come first: tensor cores cut off what a sum
// has no room for, and every addition to a large one costs half of its last bit.
TALK3D_DEVICE Floats4 mma_rests(const Split (&a)[4], bool second, const SplitQuad& b, Floats4 c) {
  const Quad &head = b.head, &rest = b.rest;
  c = mma(a[0].rest, a[1].rest, a[2].rest, a[3].rest, second ? head.z : head.x, second ? head.w : head.y, c);
  return mma(a[0].head, a[1].head, a[2].head, a[3].head, second ? rest.z : rest.x, second ? rest.w : rest.y, c);
}

// The decoder as in HalfDecoder. Sums come multiplied by the scales of their factors: biases are too.
struct FloatDecoder {
  SplitQuad w0[8][32];
  Floats4 b0[8][4];
  SplitQuad w1[4][2][32];  // to -x in base 2: colours are sigmoids
  Floats4 b1[4][4];
  Floats4 density[4][4];  // for t: the weights of its four units of sixteen
  float density_bias;

  static constexpr float kOutScale = kHiddenScale * kWeightScale;

  TALK3D_DEVICE void fill(const float* flat, int thread) {
    const FlatDecoder from(flat);
    for (int at = thread; at < 8 * 32; at += kThreadsPerBlock) {
      const int j = at / 32, lane = at % 32;
      w0[j][lane].fill(kWeightScale * kLog2E / 3.0f, [&](int k) { return from.first(j, lane, k); });
      // hidden units are softplus / ln 2 of their input: with the base of the sigmoid that leaves the sign
      w1[j / 2][j % 2][lane].fill(-kWeightScale, [&](int k) { return from.color(j / 2, j % 2, lane, k); });
    }
    for (int at = thread; at < 4 * 4; at += kThreadsPerBlock) {
      const int step = at / 4, t = at % 4;
      const Two first = from.density_back(2 * step, t) * (kLn2 / kHiddenScale);
      const Two second = from.density_back(2 * step + 1, t) * (kLn2 / kHiddenScale);
      density[step][t] = {first.low, first.high, second.low, second.high};
    }
    for (int at = thread; at < 8 * 4; at += kThreadsPerBlock) {
      const int j = at / 4, t = at % 4;
      const Two hidden = from.hidden_bias(j, t) * (kHiddenScale * kLog2E);
      b0[j][t] = {hidden.low, hidden.high, hidden.low, hidden.high};
      if (j >= 4) continue;
      const Two color = from.color_bias(j, t) * (-kOutScale * kLog2E);
      b1[j][t] = {color.low, color.high, color.low, color.high};
    }
    if (thread == 0) density_bias = from.b1[0];
  }
};

struct FloatDecoderBackward;

template <int kPlanes>
class FloatField {
 public:
  using Decoder = FloatDecoder;
  using Backward = FloatDecoderBackward;
  static constexpr int kBlocks = 3;  // on a multiprocessor: 168 registers for a thread
  static constexpr int kTexelBytes = sizeof(float) * kChannels;
  static constexpr int kSampleBytes = 16 * (kPlanes + 1);
  static constexpr int kQuadBytes = 4 * kSampleBytes + 16;  // spreads the quads over the banks of the memory
  static constexpr int kTapBytes = 8 * kQuadBytes;          // of a warp
  using Operand = Split;
  struct Features {
    Split at[2][4];  // of rows g and g + 8: channels 8t to 8t + 7
  };
  static constexpr float kFeatureScale = 3.0f * talk3d::kFeatureScale, kHiddenScale = talk3d::kHiddenScale / kLn2;
  struct Hidden {
    Split at[4][4];  // of 16 rows: left operands for 16 units each
  };
  struct Waiting {
    Quad at[2][4][32];  // the hidden activations of a warp's tile, out of the way of its registers

    TALK3D_DEVICE void put(const Hidden& hidden, int lane) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Split(&h)[4] = hidden.at[step];
        at[0][step][lane] = {h[0].head.bits, h[1].head.bits, h[2].head.bits, h[3].head.bits};
        at[1][step][lane] = {h[0].rest.bits, h[1].rest.bits, h[2].rest.bits, h[3].rest.bits};
      }
    }
    TALK3D_DEVICE Hidden get(int lane) const {
      Hidden hidden;
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const Quad head = at[0][step][lane], rest = at[1][step][lane];
        const uint32_t heads[4] = {head.x, head.y, head.z, head.w}, rests[4] = {rest.x, rest.y, rest.z, rest.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          hidden.at[step][k].head.bits = heads[k];
          hidden.at[step][k].rest.bits = rests[k];
        }
      }
      return hidden;
    }
  };

  TALK3D_DEVICE FloatField(
      const Texels& texels, const Decoder& shared, char* taps, const Place& place, int64_t camera, const float* ray)
      : texels_(texels),
        decoder_(shared),
        mine_(taps + place.g * kQuadBytes + place.t * kSampleBytes),
        quad_(taps + place.g * kQuadBytes),
        lane_(place.lane),
        base_(reinterpret_cast<const Texel*>(texels.data + camera * texels.batch_stride + 32 * place.t)),
        line_(texels, ray) {}

  // As in HalfField; the density has its bias.
  TALK3D_DEVICE void evaluate(float depth, Hidden& nearer, Hidden& farther, float (&density)[2][2]) {
    Hidden* const hidden[2] = {&nearer, &farther};
    look(depth);
    Features features[2];
    for (auto& tile : density) tile[0] = tile[1] = 0.0f;
    decode(0, hidden, features, density);
    sync_warp();
    const float bias = decoder_.density_bias;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float& sum = density[tile][row];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2) + bias;
      }
  }

  TALK3D_DEVICE void look(float depth) {
    project(depth);
    sync_warp();
  }
  template <int kTiles>
  TALK3D_DEVICE void decode(int first, Hidden* const (&hidden)[kTiles], Features (&features)[kTiles]) const {
    float unused[kTiles][2] = {};
    decode(first, hidden, features, unused);
  }
  // And to this thread's part of the density of rows g and g + 8. A tensor core would cut off its sums, and density is
  // what a picture is most sensitive to.
  template <int kTiles>
  TALK3D_DEVICE void decode(int first,
                            Hidden* const (&hidden)[kTiles],
                            Features (&features)[kTiles],
                            float (&density)[kTiles][2]) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float sum[8];
        gather(2 * (first + tile) + row, sum);
#pragma unroll
        for (int c = 0; c < 4; ++c) features[tile].at[row][c] = Split(sum[2 * c], sum[2 * c + 1]);
      }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const SplitQuad w = decoder_.w0[j][lane_];
      const Floats4 bias = decoder_.b0[j][lane_ % 4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const auto& of = features[tile].at;
        const Split f[2][4] = {{of[0][0], of[1][0], of[0][1], of[1][1]}, {of[0][2], of[1][2], of[0][3], of[1][3]}};
        Floats4 sum = mma_rests(f[1], true, w, mma_rests(f[0], false, w, bias));
        sum = mma_heads(f[1], true, w, mma_heads(f[0], false, w, sum));
        sum = {softplus2(sum.x), softplus2(sum.y), softplus2(sum.z), softplus2(sum.w)};
        hidden[tile]->at[j / 2][2 * (j % 2)] = Split(sum.x, sum.y);
        hidden[tile]->at[j / 2][2 * (j % 2) + 1] = Split(sum.z, sum.w);
        const Floats4 v = decoder_.density[j / 2][lane_ % 4];
        const float left = j % 2 ? v.z : v.x, right = j % 2 ? v.w : v.y;
        density[tile][0] = fmaf(sum.y, right, fmaf(sum.x, left, density[tile][0]));
        density[tile][1] = fmaf(sum.w, right, fmaf(sum.z, left, density[tile][1]));
      }
    }
  }

  // Sigmoids of the colours' inputs, of some tiles: rows g and g + 8, channels 8t to 8t + 7. Calls
  // use(tile, row, channel of the eight, value).
  template <int kTiles, class Use>
  TALK3D_DEVICE void for_each_color(const Hidden* const (&hidden)[kTiles], Use use) const {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      Floats4 out[kTiles][2];  // tile, half of the pair
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const SplitQuad w = decoder_.w1[step][pair][lane_];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const Floats4 start = step == 0 ? decoder_.b1[2 * pair + k][lane_ % 4] : out[tile][k];
            out[tile][k] = mma_heads(hidden[tile]->at[step], k, w, mma_rests(hidden[tile]->at[step], k, w, start));
          }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int channel = 4 * pair + 2 * k;
          const Floats4 x = out[tile][k];
          use(tile, 0, channel, sigmoid2(x.x));
          use(tile, 0, channel + 1, sigmoid2(x.y));
          use(tile, 1, channel, sigmoid2(x.z));
          use(tile, 1, channel + 1, sigmoid2(x.w));
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

  // What the interval between two samples lets through, as common/march.h has it, and the derivative of its opacity
  // with respect to either density.
  TALK3D_DEVICE float transparency(float density, float next_density, float gap) const {
    const Lane raw = fmaf(density + next_density, 0.5f, -1.0f);
    return exp_of_less(softplus(raw).v * gap);
  }
  TALK3D_DEVICE float transparency(float density, float next_density, float gap, float& rise) const {
    const Lane raw = fmaf(density + next_density, 0.5f, -1.0f);
    Lane slope;
    const float clear = exp_of_less(softplus(raw, slope).v * gap);
    rise = 0.5f * gap * clear * slope.v;
    return clear;
  }

  // As in HalfField.
  template <class Use>
  TALK3D_DEVICE void for_each_tap(int plane, int number, Use use) const {
    const char* sample = quad_ + number * kSampleBytes;
    const uint32_t top = top_of(*reinterpret_cast<const Quad*>(sample), plane);
    const Floats4 by = *reinterpret_cast<const Floats4*>(sample + 16 * (plane + 1));
    use(top, by.x * (1.0f / talk3d::kFeatureScale));
    use(top + 1, by.y * (1.0f / talk3d::kFeatureScale));
    use(top + texels_.pitch, by.z * (1.0f / talk3d::kFeatureScale));
    use(top + texels_.pitch + 1, by.w * (1.0f / talk3d::kFeatureScale));
  }

  // As in HalfField.
  TALK3D_DEVICE void differentiate_place(int number, const float (&d_features)[8], float (&d_place)[3]) const {
    const char* sample = quad_ + number * kSampleBytes;
    const Quad tops = *reinterpret_cast<const Quad*>(sample);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Floats4 by = *reinterpret_cast<const Floats4*>(sample + 16 * (p + 1));
      const Texel* const above = base_ + top_of(tops, p);
      const Texel* const rows[2] = {above, above + texels_.pitch};
      float d_weights[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        d_weights[k] = 0.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Floats4 from = load_floats(&rows[k / 2][k % 2].at[half].x);
          const float channels[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
          for (int c = 0; c < 4; ++c) d_weights[k] = fmaf(channels[c], d_features[4 * half + c], d_weights[k]);
        }
        d_weights[k] *= 1.0f / talk3d::kFeatureScale;  // which the weights of the taps come with
      }
      differentiate_cell(p, by, d_weights, d_place);
    }
  }
  TALK3D_DEVICE bool moves(int axis, float depth) const { return line_.moves(axis, depth); }

  // A colour is 1.002 sigmoid(x) - 0.001; a feature is twice the sum of what is seen, less 1.
  TALK3D_DEVICE static float feature(float color) { return fmaf(color, 2.004f, -0.002f); }
  TALK3D_DEVICE static float slope(float color) { return 2.004f * fmaf(-color, color, color); }  // to x
  TALK3D_DEVICE static float pixel(float sum, float weight) { return fmaf(sum, 1.002f, -0.001f * weight); }

 private:
  // e^-x; near 0 by its series, whose result is rounded once, so that next to nothing is not lost in what remains of 1.
  TALK3D_DEVICE static float exp_of_less(float x) {
    const float series = fmaf(x, fmaf(x, fmaf(x, -1.0f / 6.0f, 0.5f), -1.0f), 1.0f);
    return x < 0x1p-6f ? series : exp_negative(Lane(-x)).v;
  }

  struct Texel {
    Floats4 at[kTexelBytes / sizeof(Floats4)];
  };

  // log2(1 + 2^y) times the scale of hidden units, which y comes with. Off by 2^-22 of its unscaled value or of 1.
  TALK3D_DEVICE static float softplus2(float scaled) {
    const float z = exp2_fast(-fabsf(scaled) * (1.0f / talk3d::kHiddenScale));
    return fmaf(log2_fast(1.0f + z), talk3d::kHiddenScale, fmaxf(scaled, 0.0f));
  }
  // 1 / (1 + 2^y), where y comes with the scale of the outputs.
  TALK3D_DEVICE static float sigmoid2(float scaled) {
    return reciprocal_fast(1.0f + exp2_fast(scaled * (1.0f / Decoder::kOutScale)));
  }

  TALK3D_DEVICE static uint32_t top_of(const Quad& tops, int plane) {
    return plane == 0 ? tops.x : plane == 1 ? tops.y : tops.z;
  }

  // The taps of this thread's sample: where the upper rows of texels begin, and for each plane four weights.
  TALK3D_DEVICE void project(float depth) {
    float share[3][2];  // of the nearer and the farther texel, along each axis
    uint32_t cell[3], top[3] = {};
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      float within;
      cell[axis] = line_.cell(texels_, axis, depth, within);
      share[axis][0] = 1.0f - within;
      share[axis][1] = within;
    }
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const auto &across = share[axis_across(p)], &along = share[axis_along(p)];
      top[p] = cell[axis_along(p)] * texels_.pitch + (cell[axis_across(p)] + texels_.first[p]);
      const float above = talk3d::kFeatureScale * along[0], below = talk3d::kFeatureScale * along[1];
      *reinterpret_cast<Floats4*>(mine_ + 16 * (p + 1)) = {across[0] * above, across[1] * above, across[0] * below,
                                                           across[1] * below};
    }
    *reinterpret_cast<Quad*>(mine_) = {top[0], top[1], top[2], 0};
  }

  // Sum over the planes of what sample `number` of the quad sees, this thread's channels.
  TALK3D_DEVICE void gather(int number, float (&sum)[8]) const {
    const char* sample = quad_ + number * kSampleBytes;
    const Quad tops = *reinterpret_cast<const Quad*>(sample);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const Floats4 by = *reinterpret_cast<const Floats4*>(sample + 16 * (p + 1));
      const float weights[4] = {by.x, by.y, by.z, by.w};
      const Texel* const above = base_ + top_of(tops, p);
      const Texel* const rows[2] = {above, above + texels_.pitch};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Texel& texel = rows[k / 2][k % 2];
        const Floats4 halves[2] = {load_floats(&texel.at[0].x), load_floats(&texel.at[1].x)};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Floats4& from = halves[half];
          const float channels[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            float& to = sum[4 * half + c];
            to = p + k == 0 ? weights[k] * channels[c] : fmaf(weights[k], channels[c], to);
          }
        }
      }
    }
  }

  const Texels& texels_;
  const Decoder& decoder_;
  char *const mine_, *const quad_;
  const int lane_;
  const Texel* const base_;
  const Line line_;
};

}  // namespace talk3d
