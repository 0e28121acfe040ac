// Tri-plane sampling on the CPU: the choice of instruction set, and torch's threads.
#include "cpu/triplane.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/tensors.h"
#include "cpu/instructions.h"

namespace talk3d {

Bands::Bands(int64_t owner, int64_t owners, int64_t texels) {
  while (shift > 0 && texels >> shift < 8 * owners) --shift;
  owned.resize((texels >> shift) + 1);
  for (size_t band = owner; band < owned.size(); band += owners) owned[band] = 1;
}

const TriplaneKernels& triplane_kernels() {
  switch (lanes()) {
#if defined(__x86_64__)
    case 16:
      return kTriplaneAvx512;
    case 8:
      return kTriplaneAvx2;
#endif
    default:
      return kTriplanePortable;
  }
}

namespace {

constexpr int64_t kPointsPerTask = 4096;  // half a millisecond

Tensor sample_triplane(
    const Tensor& planes, const Tensor& points, std::vector<int64_t> pairs, double scale, bool mean) {
  STD_TORCH_CHECK(planes.is_contiguous() && points.is_contiguous(), "planes and points must be contiguous");
  const Sampling s = sampling_of(planes, points, pairs, scale, mean);
  const int64_t B = points.size(0), M = points.size(1), P = planes.size(1), C = planes.size(4);
  Tensor features = mean ? empty(points, {B, M, C}) : empty(points, {B, P, M, C});
  const TriplaneKernels& chosen = triplane_kernels();
  torch::stable::parallel_for(0, s.points, kPointsPerTask, [&](int64_t begin, int64_t end) {
    chosen.sample(s, data(planes), data(points), mutable_data(features), begin, end);
  });
  return features;
}

void scatter(const Sampling& s, const Tensor& d_features, const Tensor& points, Tensor& d_planes) {
  const int64_t texels = d_planes.numel() / s.channels, owners = torch::stable::get_num_threads();
  const TriplaneKernels& chosen = triplane_kernels();
  torch::stable::parallel_for(0, owners, 1, [&](int64_t begin, int64_t end) {
    for (int64_t owner = begin; owner < end; ++owner)
      chosen.scatter(s, Bands(owner, owners, texels), data(d_features), data(points), mutable_data(d_planes));
  });
}

std::tuple<Tensor, Tensor> sample_triplane_backward(const Tensor& d_features,
                                                    const Tensor& planes,
                                                    const Tensor& points,
                                                    std::vector<int64_t> pairs,
                                                    double scale,
                                                    bool mean,
                                                    bool needs_planes,
                                                    bool needs_points) {
  STD_TORCH_CHECK(planes.is_contiguous() && points.is_contiguous() && d_features.is_contiguous(),
                  "d_features, planes and points must be contiguous");
  const Sampling s = sampling_of(planes, points, pairs, scale, mean);
  Tensor d_planes = zeros_if(needs_planes, planes);
  Tensor d_points = needs_points ? torch::stable::empty_like(points) : empty(points, {0});
  if (needs_planes) scatter(s, d_features, points, d_planes);
  if (needs_points) {
    const TriplaneKernels& chosen = triplane_kernels();
    torch::stable::parallel_for(0, s.points, kPointsPerTask, [&](int64_t begin, int64_t end) {
      chosen.differentiate_points(s, data(d_features), data(planes), data(points), mutable_data(d_points), begin, end);
    });
  }
  return {d_planes, d_points};
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cpu, CPU, m) {
  m.impl("sample_triplane", TORCH_BOX(&talk3d::sample_triplane));
  m.impl("sample_triplane_backward", TORCH_BOX(&talk3d::sample_triplane_backward));
}
