// What the boxed operators hand to the kernels of one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/sampling.h"
#include "common/volume.h"

namespace talk3d {

// The decoder in the layouts that the inner loops read: the long side of each matrix is contiguous.
struct Decoder {
  alignas(64) float w0[kHidden * kChannels];    // [hidden, channel]: backward
  alignas(64) float w0_t[kChannels * kHidden];  // [channel, hidden]: forward
  alignas(64) float b0[kHidden];
  alignas(64) float density[kHidden];           // row 0 of the second layer
  alignas(64) float w1[kChannels * kHidden];    // [color, hidden]: backward
  alignas(64) float w1_t[kHidden * kChannels];  // [hidden, color]: forward
  alignas(64) float b1[kChannels];
  float density_bias;

  explicit Decoder(const float* flat);
};

struct Volume : Sampling {
  const float* texels;  // [1 or B, P, H, W, 32]
};

// Where one task leaves what it finds; a null pointer: not needed.
struct Gradients {
  float* decoder;  // one partial sum, laid out as the flat decoder, added to
  float* rays;     // [B * R, 8], the whole tensor
  // samples that the planes have a gradient from, packed; room for every sample of the task
  float* features;  // [samples, 32] gradient of the mean feature
  float* points;    // [samples, 3] where it was sampled, in the world
  int* samples;     // how many
};

// One instruction set's kernels. Rays are addressed by their number in [0, B * R).
struct VolumeKernels {
  void (*render)(const Volume&, const Decoder&, const March&, const Rays&, const Image&, int64_t begin, int64_t end);
  void (*differentiate)(const Volume&,
                        const Decoder&,
                        const March&,
                        const Rays&,
                        const Cotangents&,
                        const Gradients&,
                        int64_t begin,
                        int64_t end);
  // for the tests: volume_parts.h
  void (*decode)(const Decoder&, const float* features, int64_t rows, float* density, float* color);
  void (*draw_depths)(
      int64_t rays, int coarse, int fine, const float* depths, const float* weights, const float* u, float* out);
  void (*march_samples)(
      const March&, int64_t rays, const float* color, const float* density, const float* depths, const Image&);
};
const VolumeKernels& volume_kernels();  // those of the instruction set in use

extern const VolumeKernels kVolumePortable, kVolumeAvx2, kVolumeAvx512;

}  // namespace talk3d
