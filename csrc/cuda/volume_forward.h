// Volume rendering by one block: 64 rays, 16 a warp. A coarse pass for densities, importance sampling, and a pass over
// all samples in their order, which decodes them anew and composites as it goes: that costs a third more samples than
// keeping the first pass's colours would, and no memory.
#pragma once

#include "common/importance.h"
#include "common/march.h"
#include "cuda/volume.h"

namespace talk3d {

// Where a warp keeps numbers of its rays; a ray's rows lie one behind the other. Depths have a copy of the first in
// front and of the last behind, so that the intervals at both ends are empty.
struct RayRows {
  int coarse, fine, stride;

  TALK3D_HD explicit RayRows(const March& march) : coarse(march.coarse), fine(march.fine) {
    const int longer =
        fine > coarse ? fine : coarse;   // the weights, then the fine depths; at last all depths lie in one row
    stride = (coarse + longer + 4) | 1;  // odd: rays lie in different banks
  }
  TALK3D_HD int floats() const { return kRaysPerWarp * stride; }
  TALK3D_HD int depths(int ray) const { return ray * stride + 1; }
  TALK3D_HD int weights(int ray) const { return ray * stride + coarse + 2; }
};

template <class Field>
struct RenderShared {
  alignas(16) typename Field::Decoder decoder;
  alignas(16) char taps[kWarpsPerBlock][Field::kTapBytes];
  typename Field::Waiting waiting[kWarpsPerBlock];
  // then the rows of each warp's rays

  TALK3D_HD float* rows(int warp, const RayRows& layout) {
    return reinterpret_cast<float*>(this + 1) + warp * layout.floats();
  }
  static size_t bytes(const March& march) {
    return sizeof(RenderShared) + kWarpsPerBlock * sizeof(float) * RayRows(march).floats();
  }
};

// What this thread knows of its ray's march, the same in both threads that look after the ray.
struct Marcher {
  float through = 1.0f;                       // transmittance up to the next interval
  float last = 0.0f;                          // density of the last sample
  float weight_sum = 0.0f, depth_sum = 0.0f;  // of every other interval; the latter counts both its ends

  // The interval that ends at this thread's sample: returns its weight, and the light that reaches it.
  template <class Field>
  TALK3D_DEVICE float advance(
      const Field& field, const Place& at, const float (&density)[2][2], float start, float end, float& reached) {
    const float first = at.odd ? density[0][1] : density[0][0], second = at.odd ? density[1][1] : density[1][0];
    const float clear = field.transparency(at.late ? first : last, at.late ? second : first, end - start);
    last = second;
    const float other = shuffle_xor(clear, 2);
    const float after_first = through * ((at.late ? other : clear) + kClear);
    reached = at.late ? after_first : through;
    through = after_first * ((at.late ? clear : other) + kClear);
    const float weight = (1.0f - clear) * reached;
    weight_sum += weight;
    depth_sum += weight * (start + end);
    return weight;
  }
};

template <class Field>
class Renderer {
 public:
  TALK3D_DEVICE Renderer(const RenderArguments& arguments, RenderShared<Field>& shared, int64_t block, int thread)
      : a_(arguments),
        shared_(shared),
        at_(thread),
        layout_(arguments.march),
        rows_(shared.rows(at_.warp, layout_)),
        camera_(block / arguments.dealing.tiles) {
    const int64_t ray = arguments.dealing.ray(block % arguments.dealing.tiles, at_.warp, at_.lane % kRaysPerWarp);
    const int64_t last = arguments.dealing.rays - 1;
    number_ = camera_ * arguments.dealing.rays + (ray < last ? ray : last);
    exists_ = ray <= last;
    // what does not exist is written to where it is read from
    image_ = exists_ ? arguments.image.depths + number_ * (layout_.coarse + layout_.fine) : own_depths();
  }

  TALK3D_DEVICE void run() {
    shared_.decoder.fill(a_.decoder, at_.thread);
    sync_block();
    const float* ray = a_.rays.rays + 8 * number_of(at_.ray);
    Field field(a_.texels, shared_.decoder, shared_.taps[at_.warp], at_, camera_, ray);
    lay_coarse();
    if (a_.march.fine) {
      sample_coarse(field);
      draw_fine();
      merge();
    } else {
      for_each(a_.march.coarse, [&](int s) { image_[s] = own_depths()[s]; });
    }
    composite(field);
  }

 private:
  // The number of a ray of this warp among all; places that stay empty repeat the camera's last ray.
  TALK3D_DEVICE int64_t number_of(int ray) const { return shuffle(number_, ray); }
  TALK3D_DEVICE bool exists(int ray) const { return shuffle(int(exists_), ray); }

  TALK3D_DEVICE float* own_depths() const { return rows_ + layout_.depths(at_.lane % kRaysPerWarp); }
  TALK3D_DEVICE float* own_weights() const { return rows_ + layout_.weights(at_.lane % kRaysPerWarp); }

  // Does action(sample) for `count` samples of ray lane % 16, which two threads share.
  template <int kUnroll = 1, class Action>
  TALK3D_DEVICE void for_each(int count, Action action) const {
#pragma unroll kUnroll
    for (int sample = at_.lane / kRaysPerWarp; sample < count; sample += 2) action(sample);
    sync_warp();
  }

  TALK3D_DEVICE void lay_coarse() {
    const int count = a_.march.coarse;
    const float* ray = a_.rays.rays + 8 * number_;
    const float* jitter = a_.rays.jitter ? a_.rays.jitter + number_ * count : nullptr;
    const float near = ray[6], far = ray[7];
    float* const depths = own_depths();
    March march = a_.march;
    const auto lay = [&](int s) {
      depths[s] = stratum_depth<Lane>(march, near, far, static_cast<float>(s), jitter ? jitter[s] : 0.5f).v;
    };
    if ((march.disparity = a_.march.disparity)) {  // known within each branch: none in the loops
      for_each(count, lay);
    } else {
      for_each(count, lay);
    }
    close(depths, count);
  }

  // Copies the first and the last depth to beyond them.
  TALK3D_DEVICE void close(float* depths, int count) const {
    if (at_.lane < kRaysPerWarp) {
      depths[-1] = depths[0];
      depths[count] = depths[count - 1];
    }
    sync_warp();
  }

  // Weights of the coarse intervals, to their row: that of the interval which ends at a sample has the sample's place.
  TALK3D_DEVICE void sample_coarse(Field& field) {
    Marcher march;
    const float* depths = rows_ + layout_.depths(at_.ray) + at_.late;
    float* weights = rows_ + layout_.weights(at_.ray) + at_.late;
    for (int k = 0; k < a_.march.coarse; k += 2) {
      const float depth = depths[k];
      typename Field::Hidden nearer, farther;
      float density[2][2], reached;
      field.evaluate(depth, nearer, farther, density);
      weights[k] = march.advance(field, at_, density, depths[k - 1], depth, reached);
    }
    sync_warp();
  }

  // Fine depths in ascending order, to the image for the time being.
  TALK3D_DEVICE void draw_fine() {
    // none where the image is where others still read: two threads share a ray
    const int coarse = a_.march.coarse, fine = exists_ ? a_.march.fine : 0, step = first_step(coarse - 2);
    const float share = 1.0f / static_cast<float>(a_.march.fine);
    const float *given = a_.rays.u ? a_.rays.u + number_ * fine : nullptr, *depths = own_depths();
    float* const weights = own_weights();
    if (at_.lane < kRaysPerWarp) accumulate_weights(coarse, weights);
    sync_warp();
    if (given) {  // in any order
      for_each(fine, [&](int k) {
        int place = 0;
        for (int j = 0; j < fine; ++j) place += given[j] < given[k] || (given[j] == given[k] && j < k);
        image_[place] = given[k];
      });
    }
    for_each(fine, [&](int k) {
      const float u = given ? image_[k] : (static_cast<float>(k) + 0.5f) * share;
      image_[k] = invert_distribution(weights, depths, coarse, step, u);
    });
  }

  // All depths in one order, to the image and back to the rows.
  TALK3D_DEVICE void merge() {
    const int coarse = a_.march.coarse, fine = a_.march.fine, count = coarse + fine;
    float* const depths = own_depths();
    float* const fine_depths = own_weights() + 1;
    for_each<4>(exists_ ? fine : 0, [&](int k) { fine_depths[k] = image_[k]; });
    const bool first = at_.lane < kRaysPerWarp;  // one thread begins in front, the other behind
    depths[first ? -1 : coarse] = fine_depths[first ? -1 : fine] = first ? -INFINITY : INFINITY;
    sync_warp();
    const int half = count / 2;
    merge_sorted(first, first ? depths : depths + coarse - 1, first ? fine_depths : fine_depths + fine - 1,
                 exists_ ? (first ? half : count - half) : 0, first ? image_ : image_ + count - 1);
    sync_warp();
    for_each<4>(count, [&](int s) { depths[s] = image_[s]; });
    close(depths, count);
  }

  // All samples in their order. What is seen of a sample is known with the interval behind it, so that colours are one
  // tile late.
  TALK3D_DEVICE void composite(Field& field) {
    const int count = a_.march.coarse + a_.march.fine;
    Composite c(*this, count);
    for (int k = 0; k < count; k += 2) c.step(field, k);
    typename Field::Hidden nothing = {};
    c.add_colors(field, 0.0f, nothing);
    finish(c.march, c.sums, count);
  }

  struct Composite {
    Marcher march;
    float sums[2][8] = {};  // of twice the weighted colours, of rows g and g + 8: channels 8t to 8t + 7
    float waits = 0.0f;     // weight of the interval that ended at the sample whose colour waits

    const Place& at;
    typename Field::Waiting& waiting;
    const float least;
    const float* const depths;  // those of this thread's ray, from its own first sample
    float* const transmittance;
    const uint32_t writes;  // how many intervals of the ray go to the image

    TALK3D_DEVICE Composite(const Renderer& r, int count)
        : at(r.at_),
          waiting(r.shared_.waiting[at.warp]),
          least(r.a_.march.min_weight),
          depths(r.rows_ + r.layout_.depths(at.ray) + at.late),
          transmittance(whole(r.a_.image.transmittance + r.number_of(at.ray) * (count - 1))),
          writes(r.exists(at.ray) ? count - 1 : 0) {
      waiting.put({}, at.lane);
    }

    TALK3D_DEVICE void step(Field& field, int k) {
      const float start = depths[k - 1], end = depths[k];
      typename Field::Hidden nearer, farther;
      float density[2][2], reached;
      field.evaluate(end, nearer, farther, density);
      const float weight = march.advance(field, at, density, start, end, reached);
      const uint32_t interval = k + at.late - 1;  // far too large in front of the first sample
      if (interval < writes) transmittance[interval] = reached;
      add_colors(field, weight, nearer);
      waiting.put(farther, at.lane);
    }

    // The thread of a farther sample speaks for the one that waits, that of a nearer sample for its own.
    TALK3D_DEVICE void add_colors(const Field& field, float weight, const typename Field::Hidden& nearer) {
      const float before = at.late ? waits : weight, behind = shuffle_xor(weight, 2);
      waits = weight;
      const bool seen = !(before <= least && behind <= least);  // also where a weight is not a number
      if (!any(seen)) return;
      const float share = seen ? before + behind : 0.0f;
      float shares[2][2];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int row = 0; row < 2; ++row) shares[tile][row] = shuffle(share, (at.lane & ~3) + 2 * (1 - tile) + row);
      field.add_colors(waiting.get(at.lane), nearer, shares, sums);
    }
  };

  TALK3D_DEVICE void finish(const Marcher& march, const float (&sums)[2][8], int count) {
    const float weight = march.weight_sum + shuffle_xor(march.weight_sum, 2);
    const float depth_sum = march.depth_sum + shuffle_xor(march.depth_sum, 2);
    const int64_t own = number_of(at_.ray);
    const float* depths = rows_ + layout_.depths(at_.ray);
    if (exists(at_.ray) && !at_.late) {
      const float depth = weight == 0.0f ? INFINITY : 0.5f * depth_sum / weight;
      a_.image.weight[own] = weight;
      a_.image.depth[own] = a_.march.clamp_depth ? fminf(fmaxf(depth, depths[0]), depths[count - 1]) : depth;
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float seen = shuffle(weight, (at_.lane & ~3) + row), white = a_.march.white_back ? 1.0f - seen : 0.0f;
      const int64_t number = number_of(at_.g + 8 * row);
      if (!exists(at_.g + 8 * row)) continue;
      const float* from = a_.rays.rays + 8 * number;
      float nothing = 0.0f;  // or not a number, where the ray is not: positions are clamped, and would hide it
      for (int k = 0; k < 8; ++k) nothing += from[k] == from[k] ? 0.0f : from[k];
      float* to = a_.image.features + number * kChannels + 8 * at_.t;
#pragma unroll
      for (int c = 0; c < 8; ++c) to[c] = fmaf(Field::pixel(0.5f * sums[row][c], seen) + white, 2.0f, -1.0f) + nothing;
    }
  }

  const RenderArguments& a_;
  RenderShared<Field>& shared_;
  const Place at_;
  const RayRows layout_;
  float* const rows_;
  const int64_t camera_;
  int64_t number_;  // of ray lane % 16
  bool exists_;
  float* image_;  // the depths of that ray
};

}  // namespace talk3d
