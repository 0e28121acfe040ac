// The 3 x 3 convolution on the CPU: layouts, the choice of instruction set, and torch's threads.
#include "cpu/convolution.h"

#include <torch/csrc/stable/library.h>

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

Tensor conv3x3_bias_act(const Tensor& found,
                        const Tensor& weight,
                        std::optional<Tensor> bias,
                        double slope,
                        double gain,
                        std::optional<double> clamp) {
  Tensor x = found;
  if (!is_channels_last(found)) {
    x = empty_pictures(found, found.size(1));
    torch::stable::copy_(x, found);
  }
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
    const Tensor transformed = torch::stable::empty({kPoints * c.in * c.out}, torch::headeronly::ScalarType::Float);
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

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cpu, CPU, m) { m.impl("conv3x3_bias_act", TORCH_BOX(&talk3d::conv3x3_bias_act)); }
