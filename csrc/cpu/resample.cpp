// Resampling and activations on the CPU: layouts, the choice of instruction set, and torch's threads.
#include "cpu/resample.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "cpu/instructions.h"
#include "cpu/pictures.h"

namespace talk3d {
namespace {

using torch::headeronly::MemoryFormat;

constexpr int64_t kNumbersPerTask = 32768;  // some ten microseconds
constexpr int64_t kLine = 4096;             // floats: a line, and the rows that it is made of, fit in the second cache
constexpr int64_t kTileRows = 64;

const ResampleKernelSet& kernels() {
  switch (lanes()) {
#if defined(__x86_64__)
    case 16:
      return kResampleAvx512;
    case 8:
      return kResampleAvx2;
#endif
    default:
      return kResamplePortable;
  }
}

bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// The tensor itself, or its copy in the layout of another that has no gaps.
Tensor laid_out_as(const Tensor& like, const Tensor& tensor) {
  if (!tensor.numel() || same_layout(like, tensor)) return tensor;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, tensor);
  return copy;
}

// Numbers in memory take their bias from `biases` in turn, each for `run` of them.
struct BiasPattern {
  std::vector<float> biases;
  int64_t run;

  BiasPattern(const Tensor& y, const std::optional<Tensor>& bias) {
    if (bias)
      biases = to_floats(*bias);
    else
      biases = {0.0f};
    run = bias && y.size(1) > 1 ? y.stride(1) : y.numel();
    if (run > 1) return;
    // a few channels side by side: the pattern is repeated until it is long enough for vectors
    const size_t channels = biases.size();
    while (biases.size() < 1024) biases.insert(biases.end(), biases.begin(), biases.begin() + channels);
  }
};

Tensor bias_act(const Tensor& x, std::optional<Tensor> bias, double slope, double gain, std::optional<double> clamp) {
  Tensor y = torch::stable::empty_like(x);
  if (!y.numel()) return y;
  const Tensor from = laid_out_as(y, x);
  const Activation act = activation(x, slope, gain, clamp);
  const BiasPattern pattern(y, bias);
  const int64_t period = pattern.biases.size();
  by_type(y, [&](auto type) {
    using T = decltype(type);
    const auto run_kernel = kernels().of<T>().bias_act;
    torch::stable::parallel_for(0, y.numel(), kNumbersPerTask, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const bool one_bias = pattern.run > 1;
        const int64_t at = begin / pattern.run % period;
        const int64_t stretch = one_bias ? pattern.run - begin % pattern.run : period - at;
        const int64_t count = std::min(stretch, end - begin);
        run_kernel(act, numbers<T>(from) + begin, pattern.biases.data() + at, one_bias, numbers<T>(y) + begin, count);
        begin += count;
      }
    });
  });
  return y;
}

Tensor bias_act_backward(const Tensor& d_y, const Tensor& y, double slope, double gain, std::optional<double> clamp) {
  Tensor d_x = torch::stable::empty_like(y);
  if (!y.numel()) return d_x;
  const Tensor d_found = laid_out_as(d_x, d_y), found = laid_out_as(d_x, y);
  const Activation act = activation(y, slope, gain, clamp);
  by_type(y, [&](auto type) {
    using T = decltype(type);
    const auto run_kernel = kernels().of<T>().bias_act_backward;
    torch::stable::parallel_for(0, y.numel(), kNumbersPerTask, [&](int64_t begin, int64_t end) {
      run_kernel(act, numbers<T>(d_found) + begin, numbers<T>(found) + begin, numbers<T>(d_x) + begin, end - begin);
    });
  });
  return d_x;
}

// The filter as it is multiplied with what lies under it, and its factors if it is an outer product.
struct Weights {
  std::vector<float> rows, columns;

  Weights(const Tensor& filter, double gain, bool flip) {
    const int64_t h = filter.size(0), w = filter.size(1);
    columns = to_floats(filter);
    if (!flip) std::reverse(columns.begin(), columns.end());
    for (float& weight : columns) weight *= static_cast<float>(gain);
    const auto larger = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
    const int64_t top = std::max_element(columns.begin(), columns.end(), larger) - columns.begin();
    const double largest = columns[top];
    std::vector<float> column(h), row(columns.begin() + top / w * w, columns.begin() + top / w * w + w);
    for (int64_t y = 0; y < h; ++y) column[y] = static_cast<float>(columns[y * w + top % w] / largest);
    for (int64_t k = 0; k < h * w; ++k) {
      // written so that what is not a number is not a product either; half of the last bit of the largest is granted
      const double error = std::fabs(double(column[k / w]) * row[k % w] - columns[k]);
      if (!(error <= std::ldexp(std::fabs(largest), -24))) return;
    }
    rows = column;
    columns = row;
  }
};

Tensor resample2d_bias_act(const Tensor& x,
                           const Tensor& filter,
                           const std::optional<Tensor>& bias,
                           const std::vector<int64_t>& up,
                           const std::vector<int64_t>& down,
                           const std::vector<int64_t>& padding,
                           double filter_gain,
                           bool flip,
                           const std::optional<Activation>& activation) {
  STD_TORCH_CHECK(is_channels_last(x), "x must be channels-last");
  const Weights weights(filter, filter_gain, flip);
  const int64_t B = x.size(0), C = x.size(1), h = filter.size(0), w = filter.size(1);
  const auto axis = [&](int64_t size, int64_t taps, int a) {
    const int64_t places = size * up[a] + padding[2 * a] + padding[2 * a + 1] - taps;
    STD_TORCH_CHECK(places >= 0, "nothing remains of the picture");
    return Axis{size, places / down[a] + 1, up[a], down[a], padding[2 * a], taps};
  };
  Resampling r = {};
  r.rows = axis(x.size(2), h, 1);
  r.columns = axis(x.size(3), w, 0);
  r.pictures = B;
  r.channels = C;
  r.outer = !weights.rows.empty();
  r.row_weights = weights.rows.data();
  r.column_weights = weights.columns.data();
  r.tile_rows = std::min(kTileRows, r.rows.out);
  r.tile_columns = std::min(std::max(kLine / r.channels * r.columns.up / r.columns.down, int64_t(8)), r.columns.out);

  const auto format = x.is_contiguous() && C == 1 ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast;
  Tensor y = torch::stable::empty({B, C, r.rows.out, r.columns.out}, x.scalar_type(), std::nullopt, x.device(),
                                  std::nullopt, format);
  const std::vector<float> biases = bias ? to_floats(*bias) : std::vector<float>(C);
  const Activation act = activation.value_or(Activation{});
  by_type(y, [&](auto type) {
    using T = decltype(type);
    const ResampleKernels<T>& chosen = kernels().of<T>();
    const auto run_kernel = activation ? chosen.resample_bias_act : chosen.resample;
    const int64_t grain = std::max<int64_t>(kNumbersPerTask / (r.tile_rows * r.tile_columns * r.channels), 1);
    torch::stable::parallel_for(0, r.tiles(), grain, [&](int64_t begin, int64_t end) {
      std::vector<float> lines(r.lines() * r.line_size());
      std::vector<Tap> rows(r.rows.taps), columns(r.tile_columns * r.taps_per_sample());
      std::vector<int64_t> ends(r.tile_columns + 1);
      const Scratch scratch{lines.data(), rows.data(), columns.data(), ends.data()};
      run_kernel(r, act, numbers<T>(x), biases.data(), numbers<T>(y), scratch, begin, end);
    });
  });
  // the contract calls a single sample contiguous, and what becomes of it too
  return x.is_contiguous() ? torch::stable::contiguous(y) : y;
}

Tensor resample2d(const Tensor& x,
                  const Tensor& filter,
                  std::vector<int64_t> up,
                  std::vector<int64_t> down,
                  std::vector<int64_t> padding,
                  double gain,
                  bool flip) {
  return resample2d_bias_act(x, filter, std::nullopt, up, down, padding, gain, flip, std::nullopt);
}

Tensor resample2d_activated(const Tensor& x,
                            const Tensor& filter,
                            std::optional<Tensor> bias,
                            std::vector<int64_t> up,
                            std::vector<int64_t> down,
                            std::vector<int64_t> padding,
                            double filter_gain,
                            bool flip,
                            double slope,
                            double gain,
                            std::optional<double> clamp) {
  return resample2d_bias_act(x, filter, bias, up, down, padding, filter_gain, flip, activation(x, slope, gain, clamp));
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cpu, CPU, m) {
  m.impl("bias_act", TORCH_BOX(&talk3d::bias_act));
  m.impl("bias_act_backward", TORCH_BOX(&talk3d::bias_act_backward));
  m.impl("resample2d", TORCH_BOX(&talk3d::resample2d));
  m.impl("resample2d_bias_act", TORCH_BOX(&talk3d::resample2d_activated));
}
