// What every launch needs.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>

namespace talk3d {

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, name, ": ", cudaGetErrorString(error));
}

// The blocks for `work`, of which a block does `each`.
inline unsigned int blocks_for(int64_t work, int64_t each) {
  const int64_t blocks = (work + each - 1) / each;
  STD_TORCH_CHECK(blocks < int64_t(1) << 31, "there is too much work for one launch");
  return static_cast<unsigned int>(blocks);
}

}  // namespace talk3d
