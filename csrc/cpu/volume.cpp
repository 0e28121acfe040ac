// Volume rendering on the CPU: checks, the choice of instruction set, and torch's threads.
#include "cpu/volume.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common/tensors.h"
#include "cpu/instructions.h"
#include "cpu/triplane.h"

namespace talk3d {

Decoder::Decoder(const float* flat) {
  const float* from_b0 = flat + kHidden * kChannels;
  const float* from_w1 = from_b0 + kHidden;
  const float* from_b1 = from_w1 + (1 + kChannels) * kHidden;
  std::copy_n(flat, kHidden * kChannels, w0);
  std::copy_n(from_b0, kHidden, b0);
  std::copy_n(from_w1, kHidden, density);
  std::copy_n(from_w1 + kHidden, kChannels * kHidden, w1);
  std::copy_n(from_b1 + 1, kChannels, b1);
  density_bias = from_b1[0];
  for (int h = 0; h < kHidden; ++h) {
    for (int c = 0; c < kChannels; ++c) {
      w0_t[c * kHidden + h] = w0[h * kChannels + c];
      w1_t[h * kChannels + c] = w1[c * kHidden + h];
    }
  }
}

const VolumeKernels& volume_kernels() {
  switch (lanes()) {
#if defined(__x86_64__)
    case 16:
      return kVolumeAvx512;
    case 8:
      return kVolumeAvx2;
#endif
    default:
      return kVolumePortable;
  }
}

namespace {

// Rays in one task: a few hundred microseconds, so that threads finish together.
constexpr int64_t kRaysPerTask = 64;

Volume volume_of(const Tensor& planes, const Tensor& rays, const std::vector<int64_t>& pairs, double scale) {
  STD_TORCH_CHECK(planes.dim() == 5 && planes.size(4) == kChannels && planes.size(1) <= Sampling::kMaxPlanes &&
                      int64_t(pairs.size()) == 2 * planes.size(1),
                  "planes must be [batch, 2 or 3, height, width, 32], with a pair of coordinates for each");
  STD_TORCH_CHECK(planes.size(2) * planes.size(3) <= (1 << 24), "planes must have at most 2^24 texels each");
  return {sampling_of(planes, rays, pairs, scale, true), data(planes)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> render_rays(const Tensor& planes,
                                                               const Tensor& decoder,
                                                               const Tensor& rays,
                                                               std::optional<Tensor> jitter,
                                                               std::optional<Tensor> u,
                                                               std::vector<int64_t> pairs,
                                                               std::vector<double> settings) {
  const Volume volume = volume_of(planes, rays, pairs, settings[0]);
  const March march = march_of(settings);
  const int64_t B = rays.size(0), R = rays.size(1), N = march.coarse + march.fine;
  STD_TORCH_CHECK(decoder.numel() == kDecoderSize, "decoder must be 32 -> 64 -> 1 + 32");
  Tensor features = empty(rays, {B, R, kChannels}), depth = empty(rays, {B, R}), weight = empty(rays, {B, R});
  Tensor depths = empty(rays, {B, R, N}), transmittance = empty(rays, {B, R, N - 1});

  const Decoder layers(data(decoder));
  const Rays bundle{data(rays), jitter ? data(*jitter) : nullptr, u ? data(*u) : nullptr, R};
  const Image image{mutable_data(features), mutable_data(depth), mutable_data(weight), mutable_data(depths),
                    mutable_data(transmittance)};
  const VolumeKernels& chosen = volume_kernels();
  torch::stable::parallel_for(0, B * R, kRaysPerTask, [&](int64_t begin, int64_t end) {
    chosen.render(volume, layers, march, bundle, image, begin, end);
  });
  return {features, depth, weight, depths, transmittance};
}

// The backward goes through the rays in waves. First every task of a wave finds, for its own rays, the gradients of the
// samples, and adds to its own partial sum for the decoder. Then every thread goes through all samples of the wave and
// adds them to the rows of the planes that it owns. So each texel meets its samples in the order of the rays, whatever
// the number of threads, without atomics and without a copy of the planes for each thread.
constexpr int64_t kRaysPerBackwardTask = 4;
constexpr int64_t kTasksPerWave = 64;  // 256 rays of 96 samples: 3.4 MB

// The sum of the tasks' gradients of the decoder.
void add_up(const std::vector<float>& partial, float* d_decoder) {
  for (int64_t k = 0; k < kDecoderSize; ++k) {
    double total = 0;
    for (int64_t task = 0; task < kTasksPerWave; ++task) total += partial[task * kDecoderSize + k];
    d_decoder[k] = static_cast<float>(total);
  }
}

std::tuple<Tensor, Tensor, Tensor> render_rays_backward(std::vector<Tensor> grads,
                                                        std::vector<Tensor> saved,
                                                        std::vector<int64_t> pairs,
                                                        std::vector<double> settings,
                                                        std::vector<bool> needs) {
  const Tensor &planes = saved[0], &decoder = saved[1], &rays = saved[2];
  const Volume volume = volume_of(planes, rays, pairs, settings[0]);
  const March march = march_of(settings);
  const int64_t B = rays.size(0), R = rays.size(1), N = march.coarse + march.fine;
  Tensor d_planes = zeros_if(needs[0], planes), d_decoder = zeros_if(needs[1], decoder),
         d_rays = zeros_if(needs[2], rays);

  const Decoder layers(data(decoder));
  const Rays bundle{data(rays), nullptr, nullptr, R};
  const Cotangents from{data(grads[0]), data(grads[1]), data(grads[2]), data(saved[3]), data(saved[4])};
  const VolumeKernels& chosen = volume_kernels();
  const int64_t room = kRaysPerBackwardTask * N;
  std::vector<float> d_features(needs[0] ? kTasksPerWave * room * kChannels : 0);
  std::vector<float> points(needs[0] ? kTasksPerWave * room * 3 : 0);
  std::vector<float> partial(needs[1] ? kTasksPerWave * kDecoderSize : 0);
  std::vector<int> samples(kTasksPerWave);

  const auto wave = [&](int64_t first, int64_t end_of_wave) {
    const int64_t tasks = (end_of_wave - first + kRaysPerBackwardTask - 1) / kRaysPerBackwardTask;
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t ray = first + task * kRaysPerBackwardTask;
        const Gradients to{needs[1] ? partial.data() + task * kDecoderSize : nullptr,
                           needs[2] ? mutable_data(d_rays) : nullptr,
                           needs[0] ? d_features.data() + task * room * kChannels : nullptr,
                           needs[0] ? points.data() + task * room * 3 : nullptr, samples.data() + task};
        chosen.differentiate(volume, layers, march, bundle, from, to, ray,
                             std::min(ray + kRaysPerBackwardTask, end_of_wave));
      }
    });
    if (!needs[0]) return;
    const int64_t owners = torch::stable::get_num_threads(), set = first / R * volume.batch_stride;
    torch::stable::parallel_for(0, owners, 1, [&](int64_t begin, int64_t end) {
      for (int64_t owner = begin; owner < end; ++owner) {
        const Bands bands(owner, owners, planes.numel() / planes.size(0) / kChannels);
        for (int64_t task = 0; task < tasks; ++task) {
          Sampling packed = volume;
          packed.points = packed.points_per_batch = samples[task];
          triplane_kernels().scatter(packed, bands, d_features.data() + task * room * kChannels,
                                     points.data() + task * room * 3, mutable_data(d_planes) + set);
        }
      }
    });
  };
  // a wave stays with one set of planes
  const int64_t sets = volume.batch_stride ? B : 1, rays_of_set = volume.batch_stride ? R : B * R;
  constexpr int64_t kRaysPerWave = kTasksPerWave * kRaysPerBackwardTask;
  for (int64_t set = 0; set < sets; ++set) {
    const int64_t end = (set + 1) * rays_of_set;
    for (int64_t ray = set * rays_of_set; ray < end; ray += kRaysPerWave) wave(ray, std::min(ray + kRaysPerWave, end));
  }
  if (needs[1]) add_up(partial, mutable_data(d_decoder));
  return {d_planes, d_decoder, d_rays};
}

}  // namespace
}  // namespace talk3d

STABLE_TORCH_LIBRARY_IMPL(talk3d_cpu, CPU, m) {
  m.impl("render_rays", TORCH_BOX(&talk3d::render_rays));
  m.impl("render_rays_backward", TORCH_BOX(&talk3d::render_rays_backward));
}
