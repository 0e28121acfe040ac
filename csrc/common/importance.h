// Importance sampling, one number at a time: fine depths where the coarse weights are, and both in one order. Searches
// take the same number of steps wherever they end, so that the threads of a warp stay together.
#pragma once

#include "lanes.h"

namespace talk3d {

// The largest power of two that is not above `count`, which is at least 1.
TALK3D_HD int first_step(int count) {
  int step = 1;
  while (2 * step <= count) step *= 2;
  return step;
}

TALK3D_HD float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);  // 2 ulp, and a fifth of the instructions
#else
  return a / b;
#endif
}

// How many of the `count` keys, which ascend, are not above `query`; `step` is first_step(count).
TALK3D_HD int rank_of(const float* keys, int count, int step, float query) {
  int place = 0;
#pragma unroll 1
  for (; step > 0; step /= 2) {
    const int next = place + step < count ? place + step : count;
    if (keys[next - 1] <= query) place = next;
  }
  return place;
}

// Turn the weights of the intervals between `coarse` samples, weights[1] to weights[coarse - 1], into the cumulative
// distribution at the edges of the bins, in their place: weights[0] = 0 to weights[coarse - 3], not yet divided by its
// last. A bin has the larger weight of each pair of neighbouring intervals, averaged over two pairs.
TALK3D_HD void accumulate_weights(int coarse, float* weights) {
  float here = weights[2], left = weights[1] < here ? here : weights[1], total = 0.0f;
  weights[0] = 0.0f;
  for (int bin = 1; bin <= coarse - 3; ++bin) {
    const float after = weights[bin + 2], right = here < after ? after : here;
    total += (left + right) * 0.5f + (0.01f + 1e-5f);
    weights[bin] = total;
    here = after;
    left = right;
  }
}

// The depth at which the cumulative distribution reaches the quantile u. It lies between the middles of two intervals.
TALK3D_HD float invert_distribution(const float* cumulative, const float* depths, int coarse, int step, float u) {
  const int bins = coarse - 3;
  const float total = cumulative[bins], target = u * total;
  const int above = rank_of(cumulative, bins + 1, step, target);  // at least 1, unless u is negative
  const int low = above > 1 ? above - 1 : 0, high = above < bins ? above : bins;
  const float start = (depths[low] + depths[low + 1]) * 0.5f, stop = (depths[high] + depths[high + 1]) * 0.5f;
  const float from = cumulative[low], span = cumulative[high] - from;
  const float found = start + quotient(target - from, span < 1e-5f * total ? total : span) * (stop - start);
  // rounding must not carry it past its bin: fine depths ascend as the quantiles do
  return found > stop ? stop : found;
}

// The first `count` of two ascending rows in one order, or from behind the last. Of equal numbers those of `left` come
// first. Infinity stands behind both rows, its negative in front of them. Threads that begin in front and behind stay
// together.
TALK3D_HD void merge_sorted(bool in_front, const float* left, const float* right, int count, float* out) {
  const int step = in_front ? 1 : -1;
  float next_left = *left, next_right = *right;
  for (int k = 0; k < count; ++k) {
    const bool takes_left = (next_left > next_right) != in_front;
    *out = takes_left ? next_left : next_right;
    out += step;
    left += takes_left ? step : 0;
    right += takes_left ? 0 : step;
    const float next = *(takes_left ? left : right);
    if (takes_left) {
      next_left = next;
    } else {
      next_right = next;
    }
  }
}

}  // namespace talk3d
