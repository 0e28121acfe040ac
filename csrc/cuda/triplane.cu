// Tri-plane sampling: what points see on their planes, and the derivative. See talk3d/ops/triplane.py for the contract.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "common/tensors.h"
#include "cuda/launch.h"
#include "cuda/triplane.h"

namespace talk3d {
namespace {

__device__ Turn turn_of_thread() {
  return {int64_t(blockIdx.x) * blockDim.y + threadIdx.y, int(threadIdx.x), int(blockDim.x)};
}

template <int kWide>
__global__ void __launch_bounds__(kSampleThreads) sample_triplane_kernel(const __grid_constant__ Sampling s,
                                                                         const float* __restrict__ planes,
                                                                         const float* __restrict__ points,
                                                                         float* __restrict__ features) {
  sample_point<kWide>(s, turn_of_thread(), planes, points, features);
}

// eight blocks on a multiprocessor, hence 64 registers: with all that sm_100 would take there were seven
template <int kWide>
__global__ void __launch_bounds__(kSampleThreads, 8)
    sample_triplane_backward_kernel(const __grid_constant__ Sampling s,
                                    const float* __restrict__ d_features,
                                    const float* __restrict__ planes,
                                    const float* __restrict__ points,
                                    float* __restrict__ d_planes,
                                    float* __restrict__ d_points) {
  differentiate_point<kWide>(s, turn_of_thread(), d_features, planes, points, d_planes, d_points);
}

bool aligned(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % sizeof(float4) == 0; }

dim3 block_of(const Sampling& s, int wide) {
  const auto x = static_cast<unsigned int>(threads_of_point(s, wide));
  return {x, kSampleThreads / x};
}

unsigned int blocks(const Sampling& s, const dim3& block) {
  return static_cast<unsigned int>((s.points + block.y - 1) / block.y);
}

Tensor sample_triplane(
    const Tensor& planes, const Tensor& points, std::vector<int64_t> pairs, double scale, bool mean) {
  const torch::stable::accelerator::DeviceGuard guard(planes.get_device_index());
  STD_TORCH_CHECK(planes.is_contiguous() && points.is_contiguous(), "planes and points must be contiguous");
  const Sampling s = sampling_of(planes, points, pairs, scale, mean);
  const int64_t B = points.size(0), M = points.size(1), P = planes.size(1), C = planes.size(4);
  Tensor features = mean ? empty(points, {B, M, C}) : empty(points, {B, P, M, C});
  if (s.points == 0) return features;
  const bool by_four = C % 4 == 0 && aligned(planes);
  const auto kernel = by_four ? sample_triplane_kernel<4> : sample_triplane_kernel<1>;
  const dim3 block = block_of(s, by_four ? 4 : 1);
  kernel<<<blocks(s, block), block, 0, current_stream(planes)>>>(s, data(planes), data(points), mutable_data(features));
  check_launch("sample_triplane");
  return features;
}

std::tuple<Tensor, Tensor> sample_triplane_backward(const Tensor& d_features,
                                                    const Tensor& planes,
                                                    const Tensor& points,
                                                    std::vector<int64_t> pairs,
                                                    double scale,
                                                    bool mean,
                                                    bool needs_planes,
                                                    bool needs_points) {
  const torch::stable::accelerator::DeviceGuard guard(planes.get_device_index());
  STD_TORCH_CHECK(planes.is_contiguous() && points.is_contiguous() && d_features.is_contiguous(),
                  "d_features, planes and points must be contiguous");
  const Sampling s = sampling_of(planes, points, pairs, scale, mean);
  Tensor d_planes = zeros_if(needs_planes, planes);
  Tensor d_points = needs_points ? torch::stable::empty_like(points) : empty(points, {0});
  if (s.points == 0 || !(needs_planes || needs_points)) return {d_planes, d_points};
  const bool by_four = s.channels % 4 == 0 && aligned(planes) && aligned(d_features);
  const auto kernel = by_four ? sample_triplane_backward_kernel<4> : sample_triplane_backward_kernel<1>;
  const dim3 block = block_of(s, by_four ? 4 : 1);
  kernel<<<blocks(s, block), block, 0, current_stream(planes)>>>(s, data(d_features), data(planes), data(points),
                                                                 needs_planes ? mutable_data(d_planes) : nullptr,
                                                                 needs_points ? mutable_data(d_points) : nullptr);
  check_launch("sample_triplane");
  return {d_planes, d_points};
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cuda, CUDA, m) {
  m.impl("sample_triplane", TORCH_BOX(&talk3d::sample_triplane));
  m.impl("sample_triplane_backward", TORCH_BOX(&talk3d::sample_triplane_backward));
}
