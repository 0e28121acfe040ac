// Volume rendering: launches, and the operator. See talk3d/ops/volume.py for the contract.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/tensors.h"
#include "cuda/launch.h"
#include "cuda/volume_forward.h"
#include "cuda/volume_half.h"
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
void launch(const RenderArguments& arguments, int64_t cameras, cudaStream_t stream) {
  const auto kernel = render_rays_kernel<Field>;
  const size_t bytes = RenderShared<Field>::bytes(arguments.march);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  kernel<<<blocks_for(cameras * arguments.dealing.tiles, 1), kThreadsPerBlock, bytes, stream>>>(arguments);
  check_launch("render_rays");
}

// planes [S, P, H, W, 32] to halves [S, 2 or 3, H + 2, W + 2, 32]
Tensor packed(const Tensor& planes, const Packing& packing, cudaStream_t stream) {
  const int64_t sets = planes.size(0), side = packing.size + 2;
  Tensor found =
      torch::stable::new_empty(planes, std::vector<int64_t>{sets, packing.planes, side, side, kChannels}, ScalarType::Half);
  const unsigned int blocks = blocks_for(sets * packing.planes * packing.texels() * kGroups, kPackThreads);
  auto* to = static_cast<__half*>(found.data_ptr());
  if (planes.scalar_type() == ScalarType::Half) {
    pack_planes_kernel<<<blocks, kPackThreads, 0, stream>>>(packing, sets, static_cast<const __half*>(planes.data_ptr()),
                                                            to);
  } else {
    pack_planes_kernel<<<blocks, kPackThreads, 0, stream>>>(
        packing, sets, static_cast<const __nv_bfloat16*>(planes.data_ptr()), to);
  }
  check_launch("pack_planes");
  return found;
}

void check(const Tensor& tensor, const Tensor& planes, const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == planes.get_device_index() &&
                      tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(),
                  name, " must be contiguous, of float32, and on the device of the planes");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(const Tensor& planes,
                                                               const Tensor& decoder,
                                                               const Tensor& rays,
                                                               std::optional<Tensor> jitter,
                                                               std::optional<Tensor> u,
                                                               std::vector<int64_t> pairs,
                                                               std::vector<double> settings) {
  const torch::stable::accelerator::DeviceGuard guard(planes.get_device_index());
  STD_TORCH_CHECK(planes.dim() == 5 && planes.size(2) == planes.size(3) && planes.size(4) == kChannels &&
                      planes.size(1) <= 3 && int64_t(pairs.size()) == 2 * planes.size(1) && planes.is_contiguous() &&
                      (planes.scalar_type() == ScalarType::Half || planes.scalar_type() == ScalarType::BFloat16),
                  "planes must be [batch, 2 or 3, size, size, 32], contiguous, of float16 or bfloat16, with a pair of "
                  "coordinates for each");
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
  arguments.texels.data = static_cast<const char*>(texels.data_ptr());
  arguments.texels.size = packing.size;
  arguments.texels.scale = static_cast<float>(settings[0]);
  arguments.texels.batch_stride =
      planes.size(0) == 1 ? 0 : packing.planes * packing.texels() * HalfField<3>::kTexelBytes;
  arguments.texels.prepare();
  arguments.decoder = data(decoder);
  arguments.rays = {data(rays), jitter ? data(*jitter) : nullptr, u ? data(*u) : nullptr, R};
  arguments.dealing = Dealing::of(R);
  arguments.image = {mutable_data(features), mutable_data(depth), mutable_data(weight), mutable_data(depths),
                     mutable_data(transmittance)};
  packing.planes == 3 ? launch<HalfField<3>>(arguments, B, stream) : launch<HalfField<2>>(arguments, B, stream);
  return {features, depth, weight, depths, transmittance};
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cuda, CUDA, m) { m.impl("render_rays", TORCH_BOX(&talk3d::render_rays)); }
