// Tri-plane sampling: what points see on their planes, and the derivative. See talk3d/ops/triplane.py for the contract.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "common/sampling.h"
#include "common/tensors.h"
#include "common/triplane.h"
#include "cuda/launch.h"

namespace talk3d {
namespace {

constexpr int kThreads = 128;

// Channels that a thread takes at once.
template <int kWide>
struct alignas(kWide * sizeof(float)) Channels {
  float at[kWide];
};

template <int kWide>
__device__ Channels<kWide> load(const float* from) {
  return *reinterpret_cast<const Channels<kWide>*>(from);
}

template <int kWide>
__device__ void store(float* to, const Channels<kWide>& value) {
  *reinterpret_cast<Channels<kWide>*>(to) = value;
}

template <int kWide>
__device__ void add(float* to, const Channels<kWide>& value) {
  for (int c = 0; c < kWide; ++c) atomicAdd(to + c, value.at[c]);
}

#if __CUDA_ARCH__ >= 900  // one instruction
__device__ void add(float* to, const Channels<4>& value) {
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(value.at[0], value.at[1], value.at[2], value.at[3]));
}
#endif

// The threads along x share a point, and take turns at its channels.
__device__ int64_t point_of_thread() { return int64_t(blockIdx.x) * blockDim.y + threadIdx.y; }

__device__ Taps<Lane> taps_of(const Sampling& s, const float* point, int plane) {
  const Lane u = point[s.pairs[2 * plane]] * s.scale, v = point[s.pairs[2 * plane + 1]] * s.scale;
  return taps(u, v, s.width, s.height);
}

// Where the features of a point begin: those of one plane, or of all together.
__device__ int64_t feature_of(const Sampling& s, int64_t point, int plane) {
  const int64_t batch = point / s.points_per_batch, m = point % s.points_per_batch;
  return (s.mean ? point : (batch * s.planes + plane) * s.points_per_batch + m) * s.channels;
}

template <int kWide>
__global__ void __launch_bounds__(kThreads)
    sample_triplane_kernel(const __grid_constant__ Sampling s,
                           const float* __restrict__ planes,  // [1 or B, P, H, W, C]
                           const float* __restrict__ points,  // [B, M, 3]
                           float* __restrict__ features) {    // [B, M, C], or [B, P, M, C] without mean
  const int64_t point = point_of_thread();
  if (point >= s.points) return;
  const int64_t batch = point / s.points_per_batch * s.batch_stride;
  for (int channel = threadIdx.x * kWide; channel < s.channels; channel += blockDim.x * kWide) {
    Channels<kWide> feature{};
    for (int plane = 0; plane < s.planes; ++plane) {
      const Taps<Lane> t = taps_of(s, points + 3 * point, plane);
      const int64_t origin = batch + plane * s.plane_stride + channel;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float weight = t.weight[k].v * s.share;
        if (weight == 0.0f) continue;  // outside; the texel nearby may be anything
        const auto texel = load<kWide>(planes + origin + int64_t(t.texel[k]) * s.channels);
        for (int c = 0; c < kWide; ++c) feature.at[c] = fmaf(weight, texel.at[c], feature.at[c]);
      }
      if (!s.mean || plane == s.planes - 1) {
        store(features + feature_of(s, point, plane) + channel, feature);
        feature = {};
      }
    }
  }
}

template <int kWide>
__global__ void __launch_bounds__(kThreads)
    sample_triplane_backward_kernel(const __grid_constant__ Sampling s,
                                    const float* __restrict__ d_features,  // [B, M, C], or [B, P, M, C] without mean
                                    const float* __restrict__ planes,      // [1 or B, P, H, W, C]
                                    const float* __restrict__ points,      // [B, M, 3]
                                    float* __restrict__ d_planes,    // [1 or B, P, H, W, C], zeroed; null: not needed
                                    float* __restrict__ d_points) {  // [B, M, 3]; null: not needed
  const int64_t point = point_of_thread();
  float d_point[3] = {};
  for (int plane = 0; point < s.points && plane < s.planes; ++plane) {
    const Taps<Lane> t = taps_of(s, points + 3 * point, plane);
    const float x = t.across.v, y = t.along.v;
    const float slope_x[4] = {y - 1.0f, 1.0f - y, -y, y}, slope_y[4] = {x - 1.0f, -x, 1.0f - x, x};
    float d_x = 0.0f, d_y = 0.0f;
    for (int channel = threadIdx.x * kWide; channel < s.channels; channel += blockDim.x * kWide) {
      const int64_t origin = point / s.points_per_batch * s.batch_stride + plane * s.plane_stride + channel;
      auto d_sampled = load<kWide>(d_features + feature_of(s, point, plane) + channel);
      for (int c = 0; c < kWide; ++c) d_sampled.at[c] *= s.share;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (t.inside[k].v == 0.0f) continue;
        const int64_t index = origin + int64_t(t.texel[k]) * s.channels;
        if (d_planes) {
          Channels<kWide> d_texel;
          for (int c = 0; c < kWide; ++c) d_texel.at[c] = t.weight[k].v * d_sampled.at[c];
          add(d_planes + index, d_texel);
        }
        if (d_points) {
          const auto texel = load<kWide>(planes + index);
          float d_weight = 0.0f;
          for (int c = 0; c < kWide; ++c) d_weight = fmaf(texel.at[c], d_sampled.at[c], d_weight);
          d_x = fmaf(slope_x[k], d_weight, d_x);
          d_y = fmaf(slope_y[k], d_weight, d_y);
        }
      }
    }
    for (int axis = 0; axis < 3; ++axis) {
      if (axis == s.pairs[2 * plane]) d_point[axis] += 0.5f * s.scale * s.width * d_x;
      if (axis == s.pairs[2 * plane + 1]) d_point[axis] += 0.5f * s.scale * s.height * d_y;
    }
  }
  if (!d_points) return;
  for (int axis = 0; axis < 3; ++axis) {
    for (int distance = blockDim.x / 2; distance > 0; distance /= 2)
      d_point[axis] += __shfl_down_sync(~0u, d_point[axis], distance, blockDim.x);
    if (threadIdx.x == 0 && point < s.points) d_points[3 * point + axis] = d_point[axis];
  }
}

bool aligned(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % sizeof(float4) == 0; }

// As many threads along x as a point has uses for, a power of two within a warp; the others take other points.
dim3 block_of(const Sampling& s, int wide) {
  unsigned int x = 1;
  while (x < 32 && int(x) * wide < s.channels) x *= 2;
  return {x, kThreads / x};
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
