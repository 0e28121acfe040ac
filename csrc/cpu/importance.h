// Importance sampling: fine depths where the coarse weights are, and both in one order. Sorting and searching count,
// for a vector of queries at a time, the keys below each: no branch, and at these sizes faster than any other way.
#pragma once

#include "common/lanes.h"
#include "cpu/ray_buffers.h"

namespace talk3d {
namespace {

// For each of `count` queries, how many of the `size` keys are below it (or, with kEqual, not above it).
template <class F, bool kEqual>
void rank(const float* keys, int size, const float* queries, int count, float* out) {
  for (int q = 0; q < count; q += F::width) {
    const F query = F::load(queries + q);
    F below(0.0f);
    for (int k = 0; k < size; ++k) {
      const F key(keys[k]);
      below =
          below + (kEqual ? select(less(query, key), F(0.0f), F(1.0f)) : select(less(key, query), F(1.0f), F(0.0f)));
    }
    below.store(out + q);
  }
}

// Depths of the fine samples, in ascending order: the inverse of the cumulative distribution that the smoothed coarse
// weights define, at the quantiles b.u [fine], which are in ascending order too.
template <class F>
void importance_depths(
    const float* depths, const float* weight, int coarse, int fine, const RayBuffers& b, float* out) {
  const int bins = coarse - 3;
  float* smooth = b.share;  // free until the march
  // the larger of each pair of neighbours, averaged over neighbours
  for (int k = 1; k <= bins; ++k) {
    const float left = fmaxf(weight[k - 1], weight[k]), right = fmaxf(weight[k], weight[k + 1]);
    smooth[k - 1] = (left + right) * 0.5f + 0.01f + 1e-5f;
  }
  float total = 0.0f;
  for (int k = 0; k < bins; ++k) total += smooth[k];
  b.cdf[0] = 0.0f;
  for (int k = 0; k < bins; ++k) b.cdf[k + 1] = b.cdf[k] + smooth[k] / total;

  rank<F, true>(b.cdf, bins + 1, b.u, fine, b.alpha);
  for (int k = 0; k < fine; ++k) {
    const int above = static_cast<int>(b.alpha[k]);
    const int low = above > 1 ? above - 1 : 0, high = above < bins ? above : bins;
    const float span = b.cdf[high] - b.cdf[low];
    const float start = (depths[low] + depths[low + 1]) * 0.5f, stop = (depths[high] + depths[high + 1]) * 0.5f;
    out[k] = start + (b.u[k] - b.cdf[low]) / (span < 1e-5f ? 1.0f : span) * (stop - start);
  }
}

// Quantiles in ascending order: evenly spread, or those given.
template <class F>
void sorted_quantiles(const float* u, int fine, const RayBuffers& b) {
  if (!u) {
    for (int k = 0; k < fine; k += F::width) {
      ((F::ramp(static_cast<float>(k)) + F(0.5f)) / F(static_cast<float>(fine))).store(b.u + k);
    }
    return;
  }
  for (int k = 0; k < fine; ++k) b.sorted[k] = u[k];  // a row with padding, unlike the caller's
  rank<F, false>(u, fine, b.sorted, fine, b.alpha);
  for (int k = 0; k < fine; ++k) {
    int place = static_cast<int>(b.alpha[k]);
    for (int j = 0; j < k; ++j) place += u[j] == u[k];
    b.u[place] = u[k];
  }
}

// Merge the coarse and the fine depths, both ascending. Equal depths keep the coarse one first.
template <class F>
void merge(int coarse, int fine, const RayBuffers& b) {
  const int count = coarse + fine;
  for (int s = 0; s < count; ++s) b.order[s] = s;
  rank<F, false>(b.t + coarse, fine, b.t, coarse, b.alpha);
  rank<F, true>(b.t, coarse, b.t + coarse, fine, b.weight);
  for (int s = 0; s < coarse; ++s) b.order[s + static_cast<int>(b.alpha[s])] = s;
  for (int s = 0; s < fine; ++s) b.order[s + static_cast<int>(b.weight[s])] = coarse + s;
  for (int s = 0; s < count; ++s) {
    b.sorted[s] = b.t[b.order[s]];
    b.ordered[s] = b.raw[b.order[s]];
  }
}

}  // namespace
}  // namespace talk3d
