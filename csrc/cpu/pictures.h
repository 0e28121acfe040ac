// Pictures of float32 or bfloat16, and what is done to their numbers. Not for code that is compiled for vectors.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include "common/tensors.h"
#include "cpu/activation.h"

namespace talk3d {

// Call with a number of the tensor's type, which is one of two.
template <class Body>
void by_type(const Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == torch::headeronly::ScalarType::Float) return body(float());
  STD_TORCH_CHECK(tensor.scalar_type() == torch::headeronly::ScalarType::BFloat16,
                  "the type must be float32 or bfloat16");
  body(Bf16());
}

template <class T>
T* numbers(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

inline std::vector<float> to_floats(const Tensor& tensor) {
  const Tensor packed = torch::stable::contiguous(tensor);
  std::vector<float> found(packed.numel());
  by_type(packed, [&](auto type) {
    const auto* from = numbers<decltype(type)>(packed);
    for (size_t k = 0; k < found.size(); ++k) found[k] = Lane::load(from + k).v;
  });
  return found;
}

inline Activation activation(const Tensor& x, double slope, double gain, std::optional<double> clamp) {
  float limit = std::numeric_limits<float>::infinity();
  if (clamp) {
    // as the type has it: results of that size are then known to be clamped
    limit = static_cast<float>(*clamp);
    Bf16 rounded;
    Lane(limit).store(&rounded);
    if (x.scalar_type() == torch::headeronly::ScalarType::BFloat16) limit = Lane::load(&rounded).v;
  }
  const float below = clamp ? std::nextafter(limit, 0.0f) : limit;
  return {static_cast<float>(gain), static_cast<float>(gain * slope), limit, below};
}

inline bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.numel() != 0 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

}  // namespace talk3d
