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

// How many of the `count` keys, which ascend, are below `query`, or with kEqual not above it.
template <bool kEqual>
TALK3D_HD int rank_of(const float* keys, int count, int step, float query) {
  int place = 0;
  for (; step > 0; step /= 2) {
    const int next = place + step;
    const float key = keys[next <= count ? next - 1 : count - 1];
    if (next <= count && (kEqual ? key <= query : key < query)) place = next;
  }
  return place;
}

// Turn the weights of the intervals between `coarse` samples, weights[1] to weights[coarse - 1], into the cumulative
// distribution at the edges of the bins, in their place: weights[0] = 0 to weights[coarse - 3], not yet divided by its
// last. A bin has the larger weight of each pair of neighbouring intervals, averaged over two pairs.
TALK3D_HD void accumulate_weights(int coarse, float* weights) {
  float total = 0.0f, before = weights[1], here = weights[2];
  weights[0] = 0.0f;
  for (int bin = 1; bin <= coarse - 3; ++bin) {
    const float after = weights[bin + 2];
    const float left = before > here ? before : here, right = here > after ? here : after;
    total += (left + right) * 0.5f + 0.01f + 1e-5f;
    weights[bin] = total;
    before = here;
    here = after;
  }
}

// The depth at which the cumulative distribution reaches the quantile u. It lies between the middles of two intervals.
TALK3D_HD float invert_distribution(const float* cumulative, const float* depths, int coarse, int step, float u) {
  const int bins = coarse - 3;
  const float total = cumulative[bins], target = u * total;
  const int above = rank_of<true>(cumulative, bins + 1, step, target);
  const int low = above > 1 ? above - 1 : 0, high = above < bins ? above : bins;
  const float start = (depths[low] + depths[low + 1]) * 0.5f, stop = (depths[high] + depths[high + 1]) * 0.5f;
  const float span = cumulative[high] - cumulative[low];
  const float found = start + (target - cumulative[low]) / (span < 1e-5f * total ? total : span) * (stop - start);
  // rounding must not carry it past its bin: fine depths ascend as the quantiles do
  return found > stop ? stop : found;
}

// Merge `fine` ascending depths into `coarse` ones, in their row and from behind. Of equal depths the coarse one comes
// first.
TALK3D_HD void merge_sorted(float* depths, int coarse, const float* fine_depths, int fine) {
  int s = coarse - 1, k = fine - 1;
  float last = depths[s], last_fine = fine_depths[k];
  for (int place = coarse + fine - 1; place >= 0; --place) {
    const bool takes_coarse = k < 0 || (s >= 0 && last > last_fine);
    depths[place] = takes_coarse ? last : last_fine;
    s -= takes_coarse;
    k -= !takes_coarse;
    if (takes_coarse) {
      if (s >= 0) last = depths[s];
    } else if (k >= 0) {
      last_fine = fine_depths[k];
    }
  }
}

}  // namespace talk3d
