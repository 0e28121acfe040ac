// What the kernels of sample_triplane know about their tensors.
#pragma once

#include <cstdint>
#include <vector>

namespace talk3d {

struct Sampling {
  static constexpr int kMaxPlanes = 3;

  int64_t points, points_per_batch;    // B * M, M
  int64_t batch_stride, plane_stride;  // of the planes, in floats; the first is 0 where all points share them
  int planes, height, width, channels;
  int pairs[2 * kMaxPlanes];  // the coordinates that each plane sees along its width and its height
  float scale;
  bool mean;
  float share;  // of a plane in a feature: a third of the mean, or all of it
};

// planes [1 or B, P, H, W, C], points [B, M, 3]
template <class Tensor>
Sampling sampling_of(
    const Tensor& planes, const Tensor& points, const std::vector<int64_t>& pairs, double scale, bool mean) {
  Sampling s{};
  s.points = points.size(0) * points.size(1);
  s.points_per_batch = points.size(1);
  s.planes = static_cast<int>(planes.size(1));
  s.height = static_cast<int>(planes.size(2));
  s.width = static_cast<int>(planes.size(3));
  s.channels = static_cast<int>(planes.size(4));
  s.plane_stride = planes.size(2) * planes.size(3) * planes.size(4);
  s.batch_stride = planes.size(0) == 1 ? 0 : planes.size(1) * s.plane_stride;
  for (int k = 0; k < 2 * s.planes; ++k) s.pairs[k] = static_cast<int>(pairs[k]);
  s.scale = static_cast<float>(scale);
  s.mean = mean;
  s.share = mean ? 1.0f / 3.0f : 1.0f;
  return s;
}

}  // namespace talk3d
