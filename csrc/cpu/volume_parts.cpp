// The steps of volume rendering as operators of their own, which the tests compare with talk3d/reference/volume.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "common/tensors.h"
#include "cpu/volume.h"

namespace talk3d {
namespace {

std::tuple<Tensor, Tensor> decode(const Tensor& features, const Tensor& decoder) {
  const int64_t rows = features.size(0);
  Tensor density = empty(features, {rows}), color = empty(features, {rows, kChannels});
  volume_kernels().decode(Decoder(data(decoder)), data(features), rows, mutable_data(density), mutable_data(color));
  return {density, color};
}

Tensor importance_depths(const Tensor& depths, const Tensor& weights, const Tensor& u) {
  const int64_t rays = depths.size(0), coarse = depths.size(1), fine = u.size(1);
  Tensor out = empty(depths, {rays, fine});
  volume_kernels().draw_depths(rays, static_cast<int>(coarse), static_cast<int>(fine), data(depths), data(weights),
                               data(u), mutable_data(out));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> march(const Tensor& color,
                                         const Tensor& density,
                                         const Tensor& depths,
                                         bool white_back) {
  const int64_t rays = depths.size(0), count = depths.size(1);
  Tensor features = empty(depths, {rays, kChannels}), depth = empty(depths, {rays}), weight = empty(depths, {rays});
  const March march{static_cast<int>(count), 0, false, white_back, false, 0.0f};
  const Image image{mutable_data(features), mutable_data(depth), mutable_data(weight), nullptr, nullptr};
  volume_kernels().march_samples(march, rays, data(color), data(density), data(depths), image);
  return {features, depth, weight};
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_FRAGMENT(talk3d_cpu, m) {
  m.def("decode(Tensor features, Tensor decoder) -> (Tensor, Tensor)");
  m.def("importance_depths(Tensor depths, Tensor weights, Tensor u) -> Tensor");
  m.def("march(Tensor color, Tensor density, Tensor depths, bool white_back) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(talk3d_cpu, CPU, m) {
  m.impl("decode", TORCH_BOX(&talk3d::decode));
  m.impl("importance_depths", TORCH_BOX(&talk3d::importance_depths));
  m.impl("march", TORCH_BOX(&talk3d::march));
}
