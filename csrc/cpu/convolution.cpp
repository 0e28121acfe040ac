// The 3 x 3 convolution on the CPU: layouts, the choice of instruction set, and torch's threads.
#include "cpu/convolution.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "cpu/instructions.h"
#include "cpu/pictures.h"

namespace talk3d {
namespace {

using torch::headeronly::MemoryFormat;

const ConvolutionKernelSet& kernels() {
  switch (lanes()) {
#if defined(__x86_64__)
    case 16:
      return kConvolutionAvx512;
    case 8:
      return kConvolutionAvx2;
#endif
    default:
      return kConvolutionPortable;
  }
}

Tensor empty_pictures(const Tensor& like, int64_t channels) {
  return torch::stable::empty({like.size(0), channels, like.size(2), like.size(3)}, like.scalar_type(), std::nullopt,
                              like.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

Tensor channels_last(const Tensor& found) {
  if (is_channels_last(found)) return found;
  Tensor x = empty_pictures(found, found.size(1));
  torch::stable::copy_(x, found);
  return x;
}

Tensor scratch(int64_t count) { return torch::stable::empty({count}, torch::headeronly::ScalarType::Float); }

Tensor conv3x3_bias_act(const Tensor& found,
                        const Tensor& weight,
                        std::optional<Tensor> bias,
                        double slope,
                        double gain,
                        std::optional<double> clamp) {
  const Tensor x = channels_last(found);
  const Convolution c{x.size(0), x.size(2), x.size(3), x.size(1), weight.size(0)};
  Tensor y = empty_pictures(x, c.out);
  // [out, in, 3, 3] -> [3, 3, in, out]
  const Tensor turned = torch::stable::transpose(torch::stable::transpose(weight, 0, 2), 1, 3);
  const std::vector<float> taps = to_floats(torch::stable::transpose(turned, 2, 3));
  const std::vector<float> biases = bias ? to_floats(*bias) : std::vector<float>(c.out);
  const Activation act = activation(x, slope, gain, clamp);
  by_type(y, [&](auto type) {
    using T = decltype(type);
    const ConvolutionKernels<T>& chosen = kernels().of<T>();
    STD_TORCH_CHECK(c.in % kChunk == 0 && c.out % chosen.outputs == 0, "channels must be whole vectors");
    const Tensor transformed = scratch(kPoints * c.in * c.out);
    torch::stable::parallel_for(0, c.out / chosen.outputs, 1, [&](int64_t begin, int64_t end) {
      chosen.transform_weights(c, taps.data(), mutable_data(transformed), begin, end);
    });
    torch::stable::parallel_for(0, (c.tiles() + chosen.tiles - 1) / chosen.tiles, 1, [&](int64_t begin, int64_t end) {
      chosen.convolve(c, act, numbers<T>(x), taps.data(), data(transformed), biases.data(), numbers<T>(y), begin, end);
    });
  });
  // the contract calls a single column contiguous, and what becomes of it too
  return found.is_contiguous() || !is_channels_last(found) ? torch::stable::contiguous(y) : y;
}

// The first of equal blocks. Their size depends on shapes alone, and so do the bits of the sums.
TileBlock first_block(const Convolution& c) {
  constexpr int64_t kFloats = 1 << 20;  // 4 MB of transforms: with the sums beside them they stay in the last cache
  const int64_t most = std::max<int64_t>(kFloats / (kPoints * (c.in + c.out)), 1);
  const int64_t blocks = (c.tiles() + most - 1) / most;
  return {0, 0, (c.tiles() + blocks - 1) / blocks};
}

Tensor conv3x3_weight_backward(const Tensor& d_sum, const Tensor& found) {
  const Tensor x = channels_last(found), d_y = channels_last(d_sum);
  const Convolution c{x.size(0), x.size(2), x.size(3), x.size(1), d_y.size(1)};
  const Tensor d_weight = torch::stable::new_empty(x, {c.out, c.in, 3, 3});
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const ConvolutionKernels<T>& chosen = kernels().of<T>();
    STD_TORCH_CHECK(c.tiles() && c.in % kChunk == 0 && c.out % chosen.outputs == 0, "channels must be whole vectors");
    TileBlock block = first_block(c);
    const Tensor inputs = scratch(kPoints * block.next_point(c.in)), sums = scratch(kPoints * c.in * c.out);
    const Tensor gradients = scratch(kPoints * block.next_point(c.out));
    for (; block.first < c.tiles(); block.first += block.capacity) {
      block.count = std::min(block.capacity, c.tiles() - block.first);
      torch::stable::parallel_for(0, block.count, 1, [&](int64_t begin, int64_t end) {
        chosen.transform_tiles(c, block, numbers<T>(x), numbers<T>(d_y), mutable_data(inputs), mutable_data(gradients),
                               begin, end);
      });
      torch::stable::parallel_for(0, kPoints * (c.out / chosen.outputs), 1, [&](int64_t begin, int64_t end) {
        chosen.add_products(c, block, data(inputs), data(gradients), mutable_data(sums), begin, end);
      });
    }
    torch::stable::parallel_for(0, c.in, 1, [&](int64_t begin, int64_t end) {
      chosen.finish_weights(c, numbers<T>(x), numbers<T>(d_y), data(sums), numbers<T>(d_weight), begin, end);
    });
  });
  return d_weight;
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cpu, CPU, m) {
  m.impl("conv3x3_bias_act", TORCH_BOX(&talk3d::conv3x3_bias_act));
  m.impl("conv3x3_weight_backward", TORCH_BOX(&talk3d::conv3x3_weight_backward));
}
