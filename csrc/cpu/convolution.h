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

// Tiles whose transforms are kept until they are multiplied, for the gradient of the weights. Both are
// [kPoints, channels / kChunk, capacity, kChunk], and a cache line lies between points: were they powers of two apart,
// all points of a tile would fall into the same few lines of the first cache.
struct TileBlock {
  int64_t first, count, capacity;

  TALK3D_HD int64_t next_chunk() const { return capacity * kChunk; }
  TALK3D_HD int64_t next_point(int64_t channels) const { return channels * capacity + kChunk; }
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
  // Transforms of tiles [begin, end) of a block: what they see of x, and the gradient d_y of their sums.
  void (*transform_tiles)(const Convolution&,
                          const TileBlock&,
                          const T* x,
                          const T* d_y,
                          float* inputs,
                          float* gradients,
                          int64_t begin,
                          int64_t end);
  // Of sums [kPoints, out / outputs] of [in, outputs] products, a part [begin, end): begun with the first block, and
  // added to with others.
  void (*add_products)(const Convolution&,
                       const TileBlock&,
                       const float* inputs,
                       const float* gradients,
                       float* sums,
                       int64_t begin,
                       int64_t end);
  // From them the gradient [out, in, 3, 3] of the weights, for input channels [begin, end).
  void (*finish_weights)(
      const Convolution&, const T* x, const T* d_y, const float* sums, T* d_weight, int64_t begin, int64_t end);
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
