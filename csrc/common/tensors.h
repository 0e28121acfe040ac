// Tensors of the stable ABI, as the kernels want them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <vector>

namespace talk3d {

using torch::stable::Tensor;

inline const float* data(const Tensor& tensor) { return static_cast<const float*>(tensor.data_ptr()); }
inline float* mutable_data(const Tensor& tensor) { return static_cast<float*>(tensor.data_ptr()); }

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(like, std::vector<int64_t>(sizes));
}

// Zeros for a gradient; nothing for one that is not needed.
inline Tensor zeros_if(bool needed, const Tensor& like) {
  if (!needed) return empty(like, {0});
  Tensor found = torch::stable::empty_like(like);
  torch::stable::zero_(found);
  return found;
}

}  // namespace talk3d
