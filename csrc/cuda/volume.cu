// Volume rendering: launches, and the operator. See talk3d/ops/volume.py for the contract.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/tensors.h"
#include "cuda/launch.h"
#include "cuda/volume_backward.h"
#include "cuda/volume_forward.h"
#include "cuda/volume_pack.h"

namespace talk3d {
namespace {

using torch::headeronly::ScalarType;

extern __shared__ Quad shared_memory[];

template <class Field>
__global__ void __launch_bounds__(kThreadsPerBlock, Field::kBlocks)
    render_rays_kernel(const __grid_constant__ RenderArguments arguments) {
  auto& shared = *reinterpret_cast<RenderShared<Field>*>(shared_memory);
  Renderer<Field>(arguments, shared, blockIdx.x, threadIdx.x).run();
}

template <class Field>
__global__ void __launch_bounds__(kThreadsPerBlock, Field::kBlocks)
    render_rays_backward_kernel(const __grid_constant__ GradientArguments arguments) {
  auto& shared = *reinterpret_cast<GradientShared<Field>*>(shared_memory);
  Differentiator<Field>(arguments, shared, blockIdx.x, threadIdx.x).run();
}

template <class Arguments>
void launch(
    void (*kernel)(Arguments), const Arguments& arguments, int64_t cameras, size_t shared_bytes, cudaStream_t stream) {
  cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(shared_bytes));
  kernel<<<blocks_for(cameras * arguments.dealing.tiles, 1), kThreadsPerBlock, shared_bytes, stream>>>(arguments);
  check_launch("render_rays");
}

// Calls run(field), where field::type is what reads such planes.
template <class Run>
void with_field(const Tensor& planes, const Packing& packing, Run run) {
  if (planes.scalar_type() == ScalarType::Float) {
    packing.planes == 3 ? run(std::type_identity<FloatField<3>>()) : run(std::type_identity<FloatField<2>>());
  } else {
    packing.planes == 3 ? run(std::type_identity<HalfField<3>>()) : run(std::type_identity<HalfField<2>>());
  }
}

// Calls run(pointer to the tensor's data) with its type.
template <class Run>
void with_type(const Tensor& planes, Run run) {
  void* const data = planes.data_ptr();
  switch (planes.scalar_type()) {
    case ScalarType::Half:
      return run(static_cast<__half*>(data));
    case ScalarType::BFloat16:
      return run(static_cast<__nv_bfloat16*>(data));
    default:
      return run(static_cast<float*>(data));
  }
}

// planes [S, P, H, W, 32] to [S, 2 or 3, H + 2, W + 2, 32], in floats as they came or in halves
Tensor packed(const Tensor& planes, const Packing& packing, cudaStream_t stream) {
  const int64_t sets = planes.size(0), side = packing.size + 2;
  const std::vector<int64_t> sizes{sets, packing.planes, side, side, kChannels};
  const bool floats = planes.scalar_type() == ScalarType::Float;
  Tensor found = torch::stable::new_empty(planes, sizes, floats ? ScalarType::Float : ScalarType::Half);
  const unsigned int blocks = blocks_for(sets * packing.planes * packing.texels() * kGroups, kPackThreads);
  with_type(planes, [&](auto* from) {
    using To = std::conditional_t<std::is_same_v<decltype(from), float*>, float, __half>;
    pack_planes_kernel<<<blocks, kPackThreads, 0, stream>>>(packing, sets, from, static_cast<To*>(found.data_ptr()));
  });
  check_launch("pack_planes");
  return found;
}

// The gradient of packed planes, in floats, to that of the planes.
Tensor unpacked(const Tensor& gradient, const Tensor& planes, const Packing& packing, cudaStream_t stream) {
  Tensor found = torch::stable::empty_like(planes);
  const unsigned int blocks = blocks_for(planes.numel() / 8, kPackThreads);
  with_type(found, [&](auto* to) {
    unpack_gradient_kernel<<<blocks, kPackThreads, 0, stream>>>(packing, planes.size(0), data(gradient), to);
  });
  check_launch("unpack_gradient");
  return found;
}

void check(const Tensor& tensor, const Tensor& planes, const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == planes.get_device_index() &&
                      tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(),
                  name, " must be contiguous, of float32, and on the device of the planes");
}

void check_planes(const Tensor& planes, const std::vector<int64_t>& pairs) {
  STD_TORCH_CHECK(
      planes.dim() == 5 && planes.size(2) == planes.size(3) && planes.size(4) == kChannels && planes.size(1) <= 3 &&
          int64_t(pairs.size()) == 2 * planes.size(1) && planes.is_contiguous() &&
          reinterpret_cast<uintptr_t>(planes.data_ptr()) % sizeof(Quad) == 0 &&
          (planes.scalar_type() == ScalarType::Half || planes.scalar_type() == ScalarType::BFloat16 ||
           planes.scalar_type() == ScalarType::Float),
      "planes must be [batch, 2 or 3, size, size, 32], contiguous, aligned to 16 bytes, of float32, float16 "
      "or bfloat16, with a pair of coordinates for each");
}

Texels texels_of(const Tensor& packed, const Packing& packing, double scale) {
  Texels texels{};
  texels.data = static_cast<const char*>(packed.data_ptr());
  texels.size = packing.size;
  texels.scale = static_cast<float>(scale);
  const int64_t bytes = packed.scalar_type() == ScalarType::Float ? sizeof(float) : sizeof(__half);
  texels.batch_stride = packed.size(0) == 1 ? 0 : packing.planes * packing.texels() * kChannels * bytes;
  texels.prepare();
  return texels;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(const Tensor& planes,
                                                               const Tensor& decoder,
                                                               const Tensor& rays,
                                                               std::optional<Tensor> jitter,
                                                               std::optional<Tensor> u,
                                                               std::vector<int64_t> pairs,
                                                               std::vector<double> settings) {
  const torch::stable::accelerator::DeviceGuard guard(planes.get_device_index());
  check_planes(planes, pairs);
  STD_TORCH_CHECK(decoder.numel() == kDecoderSize, "decoder must be 32 -> 64 -> 1 + 32");
  check(decoder, planes, "decoder");
  check(rays, planes, "rays");
  if (jitter) check(*jitter, planes, "jitter");
  if (u) check(*u, planes, "u");

  RenderArguments arguments{};
  arguments.march = march_of(settings);
  const int64_t B = rays.size(0), R = rays.size(1), N = arguments.march.coarse + arguments.march.fine;
  Tensor features = empty(rays, {B, R, kChannels}), depth = empty(rays, {B, R}), weight = empty(rays, {B, R});
  Tensor depths = empty(rays, {B, R, N}), transmittance = empty(rays, {B, R, N - 1});
  if (B * R == 0) return {features, depth, weight, depths, transmittance};

  const cudaStream_t stream = current_stream(planes);
  const Packing packing(pairs, static_cast<int>(planes.size(2)));
  const Tensor texels = packed(planes, packing, stream);
  arguments.texels = texels_of(texels, packing, settings[0]);
  arguments.decoder = data(decoder);
  arguments.rays = {data(rays), jitter ? data(*jitter) : nullptr, u ? data(*u) : nullptr, R};
  arguments.dealing = Dealing::of(R);
  arguments.image = {mutable_data(features), mutable_data(depth), mutable_data(weight), mutable_data(depths),
                     mutable_data(transmittance)};
  with_field(planes, packing, [&](auto field) {
    using Field = typename decltype(field)::type;
    launch(render_rays_kernel<Field>, arguments, B, RenderShared<Field>::bytes(arguments.march), stream);
  });
  return {features, depth, weight, depths, transmittance};
}

std::tuple<Tensor, Tensor, Tensor> render_rays_backward(std::vector<Tensor> grads,
                                                        std::vector<Tensor> saved,
                                                        std::vector<int64_t> pairs,
                                                        std::vector<double> settings,
                                                        std::vector<bool> needs) {
  const Tensor &planes = saved[0], &decoder = saved[1], &rays = saved[2];
  const torch::stable::accelerator::DeviceGuard guard(planes.get_device_index());
  STD_TORCH_CHECK(!needs[1] && !needs[2], "the gradient is that of the planes alone");
  check_planes(planes, pairs);
  for (const Tensor& tensor : {decoder, rays, saved[3], saved[4]}) check(tensor, planes, "what was saved");
  for (const Tensor& tensor : grads) check(tensor, planes, "grads");
  const Tensor none = empty(rays, {0});
  const int64_t B = rays.size(0), R = rays.size(1);
  if (!needs[0]) return {none, none, none};

  const cudaStream_t stream = current_stream(planes);
  const Packing packing(pairs, static_cast<int>(planes.size(2)));
  const int64_t side = packing.size + 2;
  const std::vector<int64_t> sizes{planes.size(0), packing.planes, side, side, kChannels};
  Tensor gradient = torch::stable::new_zeros(rays, sizes);
  if (B * R > 0) {
    const Tensor texels = packed(planes, packing, stream);
    GradientArguments arguments{};
    arguments.texels = texels_of(texels, packing, settings[0]);
    arguments.decoder = data(decoder);
    arguments.rays = data(rays);
    arguments.march = march_of(settings);
    arguments.dealing = Dealing::of(R);
    arguments.from = {data(grads[0]), data(grads[1]), data(grads[2]), data(saved[3]), data(saved[4])};
    arguments.texel_gradients = mutable_data(gradient);
    arguments.gradient_batch_stride = planes.size(0) == 1 ? 0 : gradient.numel() / planes.size(0);
    const int samples = arguments.march.coarse + arguments.march.fine;
    with_field(planes, packing, [&](auto field) {
      using Field = typename decltype(field)::type;
      launch(render_rays_backward_kernel<Field>, arguments, B, GradientShared<Field>::bytes(samples), stream);
    });
  }
  return {unpacked(gradient, planes, packing, stream), none, none};
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cuda, CUDA, m) {
  m.impl("render_rays", TORCH_BOX(&talk3d::render_rays));
  m.impl("render_rays_backward", TORCH_BOX(&talk3d::render_rays_backward));
}
