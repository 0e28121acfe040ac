// Volume rendering: launches, and the operator. See talk3d/ops/volume.py for the contract.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/tensors.h"
#include "cuda/volume_forward.h"
#include "cuda/volume_half.h"

namespace talk3d {
namespace {

extern __shared__ Quad shared_memory[];

template <class Field>
__global__ void __launch_bounds__(kThreadsPerBlock, Field::kBlocks)
    render_rays_kernel(const __grid_constant__ RenderArguments arguments) {
  auto& shared = *reinterpret_cast<RenderShared<Field>*>(shared_memory);
  Renderer<Field>(arguments, shared, blockIdx.x, threadIdx.x).run();
}
template __global__ void render_rays_kernel<HalfField<3>>(const __grid_constant__ RenderArguments);

}
}
