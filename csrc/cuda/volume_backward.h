// The derivative of volume rendering by one block: 64 rays, 16 a warp. Nothing was kept but
// the sorted depths and the transmittance. A first pass finds densities and what each sample's colour is worth to the
// loss; from these follow, ray by ray, the gradients of densities and the shares of colours; a second pass evaluates
// the samples that have any once more, and takes their gradients through the decoder to the texels.
#pragma once

#include "common/march.h"
#include "cuda/volume_decoder_backward.h"
#include "cuda/volume_fixed.h"
#include "cuda/volume_texels.h"

namespace talk3d {

// What a kernel can find, so that the one which the training of a driver runs pays for nothing else.
enum class Wanted {
  kPlanes,
  kAll,       // planes, decoder and rays, or some of them
  kAllFixed,  // the same, with the planes' gradients in fixed point
};

struct GradientArguments {
  Texels texels;
  const float* decoder;  // flat
  const float* rays;     // [B * R, 8]
  March march;
  Dealing dealing;
  Cotangents from;
  float* texel_gradients;         // as the texels, of floats; null where it is not wanted
  int64_t gradient_batch_stride;  // in floats; 0 where all cameras share the planes

  float* d_decoder;  // [blocks, kDecoderSize], of each block; or null
  float* d_rays;     // [B * R, 8], or null
  FixedPoint fixed;
  bool measures;  // only fixed.largest is found
};

template <class Field, Wanted kWanted>
struct GradientShared {
  alignas(16) typename Field::Decoder decoder;
  alignas(16) typename Field::Backward backward;
  alignas(16) char taps[kWarpsPerBlock][Field::kTapBytes];
  typename TexelSums<Field>::Places places[kWarpsPerBlock];
  float scale[kWarpsPerBlock][kRaysPerWarp];
  struct None {};
  alignas(16) std::conditional_t<kWanted == Wanted::kPlanes, None, DecoderSums> sums[kWarpsPerBlock];
  // then for each ray of each warp two rows of its samples, and a place more for an odd one

  TALK3D_HD static int stride(int samples) { return 2 * (samples + samples % 2) | 1; }  // odd: rays in different banks
  TALK3D_HD float* rows(int warp, int samples) {
    return reinterpret_cast<float*>(this + 1) + warp * kRaysPerWarp * stride(samples);
  }
  static size_t bytes(int samples) {
    return sizeof(GradientShared) + kWarpsPerBlock * kRaysPerWarp * sizeof(float) * stride(samples);
  }
};

template <class Field, Wanted kWanted>
class Differentiator {
  using Shared = GradientShared<Field, kWanted>;
  static constexpr bool kAll = kWanted != Wanted::kPlanes, kFixed = kWanted == Wanted::kAllFixed;

 public:
  TALK3D_DEVICE Differentiator(const GradientArguments& arguments, Shared& shared, int64_t block, int thread)
      : a_(arguments),
        shared_(shared),
        at_(thread),
        count_(arguments.march.coarse + arguments.march.fine),
        stride_(Shared::stride(count_)),
        rows_(shared.rows(at_.warp, count_)),
        camera_(block / arguments.dealing.tiles),
        block_(block) {
    const int64_t ray = arguments.dealing.ray(block % arguments.dealing.tiles, at_.warp, at_.lane % kRaysPerWarp);
    const int64_t last = arguments.dealing.rays - 1;
    number_ = camera_ * arguments.dealing.rays + (ray < last ? ray : last);
    exists_ = ray <= last;
  }

  TALK3D_DEVICE void run() {
    shared_.decoder.fill(a_.decoder, at_.thread);
    shared_.backward.fill(a_.decoder, at_.thread);
    sync_block();
    const int64_t own = shuffle(number_, at_.ray);
    Field field(a_.texels, shared_.decoder, shared_.taps[at_.warp], at_, camera_, a_.rays + 8 * own);
    depths_ = a_.from.depths + own * count_;
    for (int row = 0; row < 2; ++row) {
      const float* from = a_.from.features + shuffle(number_, at_.g + 8 * row) * kChannels + 8 * at_.t;
      for (int c = 0; c < 8; ++c) d_pixel_[row][c] = from[c];
    }
    evaluate_samples(field);
    uint32_t most = 0;
    if (at_.lane < kRaysPerWarp) most = differentiate_march(field);
    sync_warp();
    if constexpr (kFixed) {
      if (a_.measures) {
        for (int mask = 1; mask < 32; mask *= 2) {
          const uint32_t other = shuffle_xor(most, mask);
          most = most < other ? other : most;
        }
        if (at_.lane == 0) max_atomically(a_.fixed.largest, most);
        return;
      }
    }
    share_scale();
    if constexpr (kAll) {
      shared_.sums[at_.warp].clear(at_.lane);
      sync_warp();
    }
    differentiate_samples(field);
    if constexpr (kAll) finish(own);
  }

 private:
  TALK3D_DEVICE float* densities(int ray) const { return rows_ + ray * stride_; }             // then their gradients
  TALK3D_DEVICE float* worths(int ray) const { return rows_ + ray * stride_ + stride_ / 2; }  // then shares of colours
  TALK3D_DEVICE float own_depth(int k) const { return depths_[k + at_.late < count_ ? k + at_.late : count_ - 1]; }

  TALK3D_DEVICE void evaluate_samples(Field& field) {
    for (int k = 0; k < count_; k += 2) {
      typename Field::Hidden nearer, farther;
      float density[2][2], worth[2][2] = {};
      field.evaluate(own_depth(k), nearer, farther, density);
      const typename Field::Hidden* const hidden[2] = {&nearer, &farther};
      field.for_each_color(hidden, [&](int tile, int row, int channel, float color) {
        worth[tile][row] = fmaf(d_pixel_[row][channel], Field::feature(color), worth[tile][row]);
      });
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int row = 0; row < 2; ++row)
          for (int mask = 1; mask < 4; mask *= 2) worth[tile][row] += shuffle_xor(worth[tile][row], mask);
      const float first = at_.odd ? density[0][1] : density[0][0], second = at_.odd ? density[1][1] : density[1][0];
      densities(at_.ray)[k + at_.late] = at_.late ? second : first;
      const float worth_first = at_.odd ? worth[0][1] : worth[0][0], worth_second = at_.odd ? worth[1][1] : worth[1][0];
      worths(at_.ray)[k + at_.late] = at_.late ? worth_second : worth_first;
    }
    sync_warp();
  }

  // For ray `lane`: gradients of the raw densities in the place of these, and each sample's share of the pixel in the
  // place of what its colour is worth. Returns the largest gradient of an output of the decoder, as bits: a number that
  // is none is larger than all others.
  TALK3D_DEVICE uint32_t differentiate_march(const Field& field) {
    float *density = densities(at_.lane), *worth = worths(at_.lane);
    const float *depths = a_.from.depths + number_ * count_, *through = a_.from.transmittance + number_ * (count_ - 1);
    float weight = 0.0f, depth_sum = 0.0f;
    for (int s = 0; s < count_ - 1; ++s) {
      const float w = (1.0f - field.transparency(density[s], density[s + 1], depths[s + 1] - depths[s])) * through[s];
      weight += w;
      depth_sum += w * 0.5f * (depths[s] + depths[s + 1]);
    }
    // a ray without weight has no interval to go through below
    const float mean = weight == 0.0f ? 0.0f : depth_sum / weight;
    const float d_depth = weight == 0.0f ? 0.0f : a_.from.depth[number_] / weight;
    float white = 0.0f, largest = 0.0f;
    for (int c = 0; c < kChannels; ++c) {
      const float d_feature = a_.from.features[number_ * kChannels + c];
      white += a_.march.white_back ? 2.0f * d_feature : 0.0f;
      largest = fmaxf(largest, fabsf(d_feature));
    }
    const float base = a_.from.weight[number_] - white, least = a_.march.min_weight;
    float shadow = 0.0f, carried = 0.0f, behind = 0.0f, most = 0.0f;  // behind: weight of the interval behind
    float next_density = density[count_ - 1], next_worth = worth[count_ - 1];
    if (count_ % 2) density[count_] = worth[count_] = 0.0f;
    uint32_t most_bits = 0;
    const auto put = [&](int s, float gradient, float before) {
      const float share = before <= least && behind <= least ? 0.0f : 0.5f * (before + behind);
      density[s] = exists_ ? gradient : 0.0f;
      worth[s] = exists_ ? share : 0.0f;
      most = fmaxf(most, fmaxf(fabsf(gradient), share * largest));
      if constexpr (kFixed) {
        const uint32_t bits = exists_ ? bits_of(fabsf(gradient) + 0.0f * share) & 0x7fffffff : 0;
        most_bits = most_bits < bits ? bits : most_bits;
      }
    };
    for (int s = count_ - 2; s >= 0; --s) {
      const float here = density[s], here_worth = worth[s];
      float rise;
      const float clear = field.transparency(here, next_density, depths[s + 1] - depths[s], rise);
      const float w = (1.0f - clear) * through[s];
      float gradient = 0.0f;
      if (!(w <= least)) {  // transparent or out of sight: its gradient is below rounding
        const float middle = 0.5f * (depths[s] + depths[s + 1]);
        const float value = 0.5f * (here_worth + next_worth) + base + d_depth * (middle - mean);
        gradient = (value * through[s] - shadow / (clear + kClear)) * rise;
        shadow += value * w;
      }
      put(s + 1, carried + gradient, w);
      carried = gradient;
      behind = w;
      next_density = here;
      next_worth = here_worth;
    }
    put(0, carried, 0.0f);
    // a power of two that brings the ray's gradients near 1, where halves have all their digits; a ray without
    // gradients, or whose gradients are not finite, leaves the choice to others
    const bool scalable = most > 0.0f && most < INFINITY;
    shared_.scale[at_.warp][at_.lane] = scalable ? exp2_fast(-floorf(log2_fast(most))) : INFINITY;
    return exists_ && bits_of(most) > most_bits ? bits_of(most) : most_bits;
  }

  // Sums go over rays, which need one scale: that of the largest gradient.
  TALK3D_DEVICE void share_scale() {
    float scale = shared_.scale[at_.warp][at_.lane % kRaysPerWarp];
    for (int mask = 1; mask < kRaysPerWarp; mask *= 2) scale = fminf(scale, shuffle_xor(scale, mask));
    sync_warp();  // the upper half of the warp has read
    if (at_.lane < kRaysPerWarp) shared_.scale[at_.warp][at_.lane] = scale < INFINITY ? scale : 1.0f;
    sync_warp();
  }

  TALK3D_DEVICE void differentiate_samples(Field& field) {
    const int quad = at_.lane & ~3;
    const float scale = shared_.scale[at_.warp][at_.ray];  // that of all rays
    const bool wants_texels = !kAll || texel_gradients();
    float unscale = 1.0f / scale;
    if constexpr (kFixed) unscale *= a_.fixed.factor();
    const auto to = whole(texel_gradients() + camera_ * a_.gradient_batch_stride + 8 * at_.t);
    const auto add_scaled = [&](uint32_t texel, const float (&d)[8], float by) {
      add(to + uint64_t(texel) * kChannels, d, by * unscale);
    };
    for (int k = 0; k < count_; k += 2) {
      const float d_own = densities(at_.ray)[k + at_.late] * scale, own_share = worths(at_.ray)[k + at_.late];
      const bool has_own = !(d_own == 0.0f && own_share == 0.0f);
      if (!any(has_own)) continue;
      field.look(own_depth(k));
      float d_place[3] = {};  // of this thread's sample
      TexelSums<Field> texels;
#pragma unroll 1
      for (int tile = 0; tile < 2; ++tile) {
        typename Field::Hidden hidden, *const decoded[1] = {&hidden};
        typename Field::Features features[1];
        field.decode(tile, decoded, features);
        float share[2], d_density[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          share[row] = shuffle(own_share * scale, quad + 2 * tile + row);
          d_density[row] = shuffle(d_own, quad + 2 * tile + row);
        }
        float d_color[2][8], d_features[2][8];  // to the last layer's output; to channels 8t to 8t + 7
        const typename Field::Hidden* const of[1] = {&hidden};
        field.for_each_color(of, [&](int, int row, int channel, float color) {
          d_color[row][channel] = share[row] * d_pixel_[row][channel] * Field::slope(color);
        });
        if constexpr (kAll) {
          TileSums<typename Field::Operand> sums(
              shared_.sums[at_.warp], at_,
              {Field::kHiddenScale, Field::kFeatureScale, scale, scale * Field::Backward::kHiddenScale}, features[0].at,
              d_density);
          shared_.backward.differentiate(at_, hidden, d_color, d_density, d_features, sums);
          place_gradients(field, tile, d_features, d_place);
        } else {
          NoSums none;
          shared_.backward.differentiate(at_, hidden, d_color, d_density, d_features, none);
        }
        const bool has[2] = {!(share[0] == 0.0f && d_density[0] == 0.0f), !(share[1] == 0.0f && d_density[1] == 0.0f)};
        if (wants_texels) texels.put(field, tile, d_features, has, add_scaled);
      }
      if (wants_texels) texels.finish(field, shared_.places[at_.warp], at_, own_depth(k), has_own, add_scaled);
      if constexpr (kAll) move(field, k, d_place);
      sync_warp();  // taps and places are read
    }
  }

  TALK3D_DEVICE auto* texel_gradients() const {
    if constexpr (kFixed) {
      return a_.fixed.texel_gradients;
    } else {
      return a_.texel_gradients;
    }
  }

  // Adds what a texel gets, this thread's channels.
  template <class To>
  TALK3D_DEVICE void add(To* to, const float (&d)[8], float by) const {
    if constexpr (kFixed) {
#pragma unroll
      for (int c = 0; c < 8; ++c) add_atomically(to + c, nearest(d[c] * by));
    } else {
      add_atomically(to, {d[0] * by, d[1] * by, d[2] * by, d[3] * by});
      add_atomically(to + 4, {d[4] * by, d[5] * by, d[6] * by, d[7] * by});
    }
  }

  // Of two samples of a quad, to the thread that looks after each.
  TALK3D_DEVICE void place_gradients(const Field& field,
                                     int tile,
                                     const float (&d_features)[2][8],
                                     float (&d_place)[3]) const {
    if (!a_.d_rays) return;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float found[3] = {};
      field.differentiate_place(2 * tile + row, d_features[row], found);
#pragma unroll
      for (int axis = 0; axis < 3; ++axis) {
        found[axis] += shuffle_xor(found[axis], 1);
        found[axis] += shuffle_xor(found[axis], 2);
        if (at_.t == 2 * tile + row) d_place[axis] = found[axis];
      }
    }
  }

  // The gradient of this thread's sample, to that of its ray.
  TALK3D_DEVICE void move(const Field& field, int k, const float (&d_place)[3]) {
    const float depth = own_depth(k), unscale = 1.0f / shared_.scale[at_.warp][at_.ray];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      const float d = field.moves(axis, depth) ? d_place[axis] * unscale : 0.0f;
      d_line_[axis] += d;
      d_line_[3 + axis] = fmaf(d, depth, d_line_[3 + axis]);
    }
  }

  TALK3D_DEVICE void finish(int64_t own) {
    if (a_.d_rays) {
      const float cells = 0.5f * a_.texels.scale * a_.texels.size;  // in a unit of the world
      const bool exists = shuffle(int(exists_), at_.ray) && !at_.late;
#pragma unroll
      for (int k = 0; k < 6; ++k) {
        const float sum = d_line_[k] + shuffle_xor(d_line_[k], 2);
        if (exists) a_.d_rays[8 * own + k] = sum * cells;
      }
      if (exists) a_.d_rays[8 * own + 6] = a_.d_rays[8 * own + 7] = 0.0f;  // near and far are constants
    }
    sync_block();
    if (!a_.d_decoder) return;
    for (int at = at_.thread; at < kDecoderSize; at += kThreadsPerBlock) {
      float sum = 0.0f;
      for (int warp = 0; warp < kWarpsPerBlock; ++warp) sum += shared_.sums[warp].flat(at);
      a_.d_decoder[block_ * kDecoderSize + at] = sum;
    }
  }

  const GradientArguments& a_;
  Shared& shared_;
  const Place at_;
  const int count_, stride_;
  float* const rows_;
  const int64_t camera_;
  int64_t number_;  // of ray lane % 16
  bool exists_;
  const float* depths_;  // those of this thread's ray
  const int64_t block_;
  float d_line_[6] = {};  // gradient of the origin and the direction of this thread's ray, of its samples, in cells
  float d_pixel_[2][8];   // gradient of the features of rows g and g + 8, channels 8t to 8t + 7
};

}  // namespace talk3d
