// The gradient of a 3 x 3 convolution's weights on a lane type F. Included by one translation unit for each instruction
// set.
//
// A block of tiles is transformed, and then multiplied: for each point, the sum over tiles of what a pair of channels
// have there. Lanes run over channels.
#pragma once

#include "cpu/convolution_kernels.h"

namespace talk3d {
namespace {

// One register block of the sums: `rows` input channels, and as many output channels as a product of the convolution.
template <class F>
struct OuterProduct;
template <>
struct OuterProduct<Lane> {
  static constexpr int rows = 2;
};
#if defined(TALK3D_TARGET_AVX2)
template <>
struct OuterProduct<Lanes8> {
  static constexpr int rows = 4;  // 8 + 2 + 1 of 16 registers; six rows do not divide a chunk
};
#endif
#if defined(TALK3D_TARGET_AVX512)
template <>
struct OuterProduct<Lanes16> {
  static constexpr int rows = 8;  // 16 + 2 + 1 of 32 registers, enough to keep the multipliers busy
};
#endif

// Tiles whose products are summed before they are added to others'. Sums of sums of sums, for there are thousands of
// tiles, and the last transform enlarges the rounding errors: in groups of 64 they are up to 1.5 times as large.
constexpr int kTileGroup = 16;

// gradients [kPoints, out / kChunk, kChunk] = the tile's, transformed; `next_point` and `next_chunk` apart
template <class F, class T>
void transform_gradient(const Convolution& c,
                        const Tile& tile,
                        const T* d_y,
                        const T* zeros,
                        float* gradients,
                        int64_t next_point,
                        int64_t next_chunk) {
  const T* pixels[kTile * kTile];
  for (int k = 0; k < kTile * kTile; ++k) {
    const int row = k / kTile, column = k % kTile;
    const int64_t pixel = (tile.picture * c.height + tile.top + row) * c.width + tile.left + column;
    pixels[k] = row < tile.rows(c) && column < tile.columns(c) ? d_y + pixel * c.out : zeros;
  }
  for (int64_t at = 0; at < c.out; at += F::width) {
    F given[kTile * kTile], half[kTile * kPatch], found[kPatch];
    for (int k = 0; k < kTile * kTile; ++k) given[k] = F::load(pixels[k] + at);
    for (int k = 0; k < kTile; ++k) transform_gradients(given + k, kTile, half + kPatch * k);  // each column
    float* to = gradients + at / kChunk * next_chunk + at % kChunk;
    for (int k = 0; k < kPatch; ++k) {
      transform_gradients(half + k, kPatch, found);
      for (int l = 0; l < kPatch; ++l) found[l].store(to + (kPatch * k + l) * next_point);
    }
  }
}

template <class F, class T>
void transform_tiles(const Convolution& c,
                     const TileBlock& block,
                     const T* x,
                     const T* d_y,
                     float* inputs,
                     float* gradients,
                     int64_t begin,
                     int64_t end) {
  Workspace space;
  const T* zeros = space.take<T>(c.in > c.out ? c.in : c.out);
  for (int64_t t = begin; t < end; ++t) {
    const Tile tile(c, block.first + t);
    const int64_t at = t * kChunk, next_chunk = block.next_chunk();
    transform_tile<F>(c, tile, x, zeros, inputs + at, block.next_point(c.in), next_chunk);
    transform_gradient<F>(c, tile, d_y, zeros, gradients + at, block.next_point(c.out), next_chunk);
  }
}

// sums [rows, kOutputs] += inputs [count, rows]^T * gradients [kOutputs / kChunk, count, kChunk]
template <class F>
TALK3D_HD void multiply_tiles(const float* inputs, const float* gradients, int64_t next_chunk, int64_t count, F* sums) {
  constexpr int kRows = OuterProduct<F>::rows, kVectors = Product<F>::vectors;
  F found[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) found[r][v] = F(0.0f);
  for (int64_t t = 0; t < count; ++t, inputs += kChunk, gradients += kChunk) {
    F g[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * F::width;
      g[v] = F::load(gradients + at / kChunk * next_chunk + at % kChunk);
    }
    for (int r = 0; r < kRows; ++r) {
      const F x(inputs[r]);
      for (int v = 0; v < kVectors; ++v) found[r][v] = fma(x, g[v], found[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r * kVectors + v] = sums[r * kVectors + v] + found[r][v];
}

template <class F>
void add_products(const Convolution& c,
                  const TileBlock& block,
                  const float* inputs,
                  const float* gradients,
                  float* sums,
                  int64_t begin,
                  int64_t end) {
  constexpr int kRows = OuterProduct<F>::rows;
  const int64_t panels = c.out / kOutputs<F>, next_chunk = block.next_chunk();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t point = item / panels, panel = item % panels;
    const float* left = inputs + point * block.next_point(c.in);
    const float* right = gradients + point * block.next_point(c.out) + panel * (kOutputs<F> / kChunk) * next_chunk;
    for (int64_t i = 0; i < c.in; i += kRows) {
      const float* rows = left + i / kChunk * next_chunk + i % kChunk;
      float* to = sums + (item * c.in + i) * kOutputs<F>;
      F found[kRows * Product<F>::vectors];
      for (F& part : found) part = F(0.0f);
      for (int64_t t = 0; t < block.count; t += kTileGroup) {
        const int64_t count = block.count - t < kTileGroup ? block.count - t : kTileGroup;
        multiply_tiles<F>(rows + t * kChunk, right + t * kChunk, next_chunk, count, found);
      }
      for (const F& part : found) {
        (block.first ? F::load(to) + part : part).store(to);
        to += F::width;
      }
    }
  }
}

// The gradient [9] of the weights from one channel of x to one vector of d_y's, summed pixel by pixel.
template <class F, class T>
void sum_directly(const Convolution& c, const T* x, const T* d_y, F* taps) {
  for (int k = 0; k < 9; ++k) taps[k] = F(0.0f);
  for (int64_t line = 0; line < c.pictures * c.height; ++line) {
    for (int k = 0; k < 9; ++k) {
      const int64_t row = line % c.height - 1 + k / 3;
      if (row < 0 || row >= c.height) continue;
      const T* from = x + (line - 1 + k / 3) * c.width * c.in;
      F sum(0.0f);
      for (int64_t column = 0; column < c.width; ++column) {
        const int64_t seen = column - 1 + k % 3;
        if (seen < 0 || seen >= c.width) continue;
        sum = fma(F(Lane::load(from + seen * c.in).v), F::load(d_y + (line * c.width + column) * c.out), sum);
      }
      taps[k] = taps[k] + sum;
    }
  }
}

template <class F, class T>
void finish_weights(
    const Convolution& c, const T* x, const T* d_y, const float* sums, T* d_weight, int64_t begin, int64_t end) {
  const int64_t next_point = c.out * c.in;
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t out = 0; out < c.out; out += F::width) {
      const float* from = sums + (out / kOutputs<F> * c.in + i) * kOutputs<F> + out % kOutputs<F>;
      F found[kPoints], half[3 * kPatch], taps[9], zero(0.0f);
      for (int k = 0; k < kPoints; ++k) found[k] = F::load(from + k * next_point);
      for (int k = 0; k < kPatch; ++k) transform_sums(found + k, kPatch, half + 3 * k);  // each column
      for (int k = 0; k < 3; ++k) transform_sums(half + k, 3, taps + 3 * k);
      for (int k = 0; k < 9; ++k) zero = fma(F(0.0f), taps[k], zero);
      // the transforms carry what is not finite to weights that do not meet it
      if (sum(zero) != 0.0f) sum_directly(c, x + i, d_y + out, taps);
      float turned[9 * F::width];
      for (int k = 0; k < 9; ++k) taps[k].store(turned + k * F::width);
      for (int o = 0; o < F::width; ++o)
        for (int k = 0; k < 9; ++k) Lane(turned[k * F::width + o]).store(d_weight + ((out + o) * c.in + i) * 9 + k);
    }
  }
}

template <class F, class T>
constexpr ConvolutionKernels<T> convolution_kernels() {
  return {
      kOutputs<F>,          kTiles<F>, &transform_panels<F>, &convolve<F, T>, &transform_tiles<F, T>, &add_products<F>,
      &finish_weights<F, T>};
}

}  // namespace
}  // namespace talk3d
