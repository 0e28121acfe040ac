// What the boxed operator hands to the kernels of one instruction set.
#pragma once

#include <cstdint>

#include "common/lanes.h"
#include "cpu/activation.h"

namespace talk3d {

constexpr int kTile = 4;                  // pixels of a tile's side
constexpr int kPatch = kTile + 2;         // and of what it sees
constexpr int kPoints = kPatch * kPatch;  // products for a tile and a pair of channels
constexpr int kChunk = 16;                // input channels that lie together, whatever the vectors

// A 3 x 3 convolution with zeros around pictures [pictures, height, width, in], by the tile.
struct Convolution {
  int64_t pictures, height, width, in, out;

  TALK3D_HD int64_t tiles_across() const { return (width + kTile - 1) / kTile; }
  TALK3D_HD int64_t tiles_down() const { return (height + kTile - 1) / kTile; }
  TALK3D_HD int64_t tiles() const { return pictures * tiles_down() * tiles_across(); }
};

template <class T>
struct ConvolutionKernels {
  int outputs;  // channels that are worked out together; divides `out`
  int tiles;    // of a block
  // From weights [3, 3, in, out], those of output panels [begin, end) as they are multiplied: a part of
  // [out / outputs, kPoints, in, outputs].
  void (*transform_weights)(const Convolution&, const float* weight, float* transformed, int64_t begin, int64_t end);
  // Blocks [begin, end) of the result, with bias [out].
  void (*convolve)(const Convolution&,
                   const Activation&,
                   const T* x,
                   const float* weight,
                   const float* transformed,
                   const float* bias,
                   T* y,
                   int64_t begin,
                   int64_t end);
};

struct ConvolutionKernelSet {
  ConvolutionKernels<float> floats;
  ConvolutionKernels<Bf16> halves;

  template <class T>
  const ConvolutionKernels<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return floats;
    else
      return halves;
  }
};

extern const ConvolutionKernelSet kConvolutionPortable, kConvolutionAvx2, kConvolutionAvx512;

}  // namespace talk3d
