// What moves an identity's planes, added to them in the layout of the renderer. See talk3d/ops/planes.py.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "common/tensors.h"
#include "cuda/launch.h"
#include "cuda/planes.h"

namespace talk3d {
namespace {

using torch::headeronly::ScalarType;

template <class Planes, class Delta>
__global__ void __launch_bounds__(kAddThreads) add_planes_kernel(const __grid_constant__ AddArguments arguments) {
  add_texel<Planes, Delta>(arguments, blockIdx.x, threadIdx.x);
}

using Kernel = void (*)(AddArguments);

template <class Planes>
Kernel kernel_for(ScalarType delta) {
  return delta == ScalarType::Half       ? add_planes_kernel<Planes, Half>
         : delta == ScalarType::BFloat16 ? add_planes_kernel<Planes, Bf16>
                                         : add_planes_kernel<Planes, float>;
}

bool reads_whole_quads(const Tensor& tensor) {
  const int64_t in_a_quad = tensor.scalar_type() == ScalarType::Float ? 4 : 8;
  return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % sizeof(Quad) == 0 && tensor.stride(0) % in_a_quad == 0 &&
         tensor.stride(1) % in_a_quad == 0;
}

Tensor add_planes(const Tensor& planes, const Tensor& delta, std::vector<int64_t> pairs) {
  const torch::stable::accelerator::DeviceGuard guard(planes.get_device_index());
  constexpr int64_t kWidth = kAddGroup * kAddGroups;
  STD_TORCH_CHECK(planes.dim() == 5 && delta.dim() == 5 && int64_t(pairs.size()) == 2 * delta.size(1),
                  "planes and delta must have five dimensions, and a pair of coordinates for each plane of delta");
  const int64_t frames = delta.size(0), size = delta.size(2), side = size + 2;
  const ScalarType type = planes.scalar_type(), moves = delta.scalar_type();
  STD_TORCH_CHECK((type == ScalarType::Float || type == ScalarType::Half) &&
                      (moves == ScalarType::Float || moves == ScalarType::Half || moves == ScalarType::BFloat16),
                  "planes must be of float32 or float16, delta of one of them or bfloat16");
  STD_TORCH_CHECK(delta.is_cuda() && delta.get_device_index() == planes.get_device_index() && size <= 4096 &&
                      delta.size(3) == size && delta.size(4) == kWidth && delta.stride(4) == 1 &&
                      delta.stride(3) == kWidth && delta.stride(2) == size * kWidth && reads_whole_quads(delta),
                  "delta must be [batch, planes, size, size, 32] on the device of the planes, each plane contiguous");
  AddArguments arguments{Packing(pairs, static_cast<int>(size))};
  STD_TORCH_CHECK(planes.is_contiguous() && reads_whole_quads(planes) &&
                      (planes.size(0) == 1 || planes.size(0) == frames) && planes.size(1) == arguments.packing.planes &&
                      planes.size(2) == side && planes.size(3) == side && planes.size(4) == kWidth,
                  "planes must be contiguous, in the renderer's layout, with a batch of 1 or that of delta");
  const std::vector<int64_t> sizes{frames, planes.size(1), side, side, kWidth};
  Tensor found = torch::stable::new_empty(planes, sizes);
  if (frames == 0) return found;
  arguments.frames = frames;
  arguments.planes = planes.data_ptr();
  arguments.batch_stride = planes.size(0) == 1 ? 0 : planes.stride(0);
  arguments.delta = delta.data_ptr();
  arguments.delta_batch_stride = delta.stride(0);
  arguments.delta_plane_stride = delta.stride(1);
  arguments.to = found.data_ptr();
  const Kernel kernel = type == ScalarType::Float ? kernel_for<float>(moves) : kernel_for<Half>(moves);
  const int64_t threads = frames * arguments.packing.planes * arguments.packing.texels() * kAddGroups;
  kernel<<<blocks_for(threads, kAddThreads), kAddThreads, 0, current_stream(planes)>>>(arguments);
  check_launch("add_planes");
  return found;
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cuda, CUDA, m) { m.impl("add_planes", TORCH_BOX(&talk3d::add_planes)); }
