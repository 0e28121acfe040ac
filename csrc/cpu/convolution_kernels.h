// The 3 x 3 convolution on a lane type F. Included by one translation unit for each instruction set.
//
// A block of tiles is transformed, multiplied and transformed back before the next one, so that pictures pass through
// memory once; the transformed weights stream from the last cache. Lanes run over channels.
#pragma once

#include "cpu/convolution.h"
#include "cpu/winograd.h"
#include "cpu/workspace.h"

namespace talk3d {
namespace {

// One register block of the products: accumulators, weights and one broadcast fill the registers. A block of tiles is
// `panels` times as many rows.
template <class F>
struct Product;
template <>
struct Product<Lane> {
  static constexpr int rows = 2, vectors = 16, panels = 8;  // sixteen floats, which the compiler makes into vectors
};
#if defined(TALK3D_TARGET_AVX2)
template <>
struct Product<Lanes8> {
  static constexpr int rows = 6, vectors = 2, panels = 4;  // 12 + 2 + 1 of 16 registers
};
#endif
#if defined(TALK3D_TARGET_AVX512)
template <>
struct Product<Lanes16> {
  static constexpr int rows = 14, vectors = 2, panels = 2;  // 28 + 2 + 1 of 32 registers
};
#endif

constexpr int kGroup = 64;  // input channels whose products are summed before they are added to others'

template <class F>
constexpr int kOutputs = Product<F>::vectors * F::width;
template <class F>
constexpr int kTiles = Product<F>::rows * Product<F>::panels;

template <class F>
void transform_panels(const Convolution& c, const float* weight, float* transformed, int64_t begin, int64_t end) {
  float* to = transformed + begin * kPoints * c.in * kOutputs<F>;
  const int64_t next_point = c.in * kOutputs<F>;
  for (int64_t panel = begin; panel < end; ++panel, to += kPoints * next_point) {
    for (int64_t i = 0; i < c.in; ++i) {
      for (int v = 0; v < kOutputs<F>; v += F::width) {
        const float* from = weight + i * c.out + panel * kOutputs<F> + v;
        F taps[9], half[18], found[kPoints];
        for (int k = 0; k < 9; ++k) taps[k] = F::load(from + k * c.in * c.out);
        for (int x = 0; x < 3; ++x) transform_weights(taps + x, 3, half + kPatch * x);  // each column
        for (int y = 0; y < kPatch; ++y) transform_weights(half + y, kPatch, found + kPatch * y);
        for (int k = 0; k < kPoints; ++k) found[k].store(to + k * next_point + i * kOutputs<F> + v);
      }
    }
  }
}

// One tile of a picture, cut off at the rim.
struct Tile {
  int64_t picture, top, left;

  TALK3D_HD Tile(const Convolution& c, int64_t number) {
    left = number % c.tiles_across() * kTile;
    top = number / c.tiles_across() % c.tiles_down() * kTile;
    picture = number / c.tiles_across() / c.tiles_down();
  }
  TALK3D_HD int rows(const Convolution& c) const { return c.height - top < kTile ? int(c.height - top) : kTile; }
  TALK3D_HD int columns(const Convolution& c) const { return c.width - left < kTile ? int(c.width - left) : kTile; }
};

// inputs [kPoints, in / kChunk, kChunk] = the tile's pixels, transformed; `next_point` and `next_chunk` apart
template <class F, class T>
void transform_tile(const Convolution& c,
                    const Tile& tile,
                    const T* x,
                    const T* zeros,
                    float* inputs,
                    int64_t next_point,
                    int64_t next_chunk) {
  const T* pixels[kPoints];
  for (int k = 0; k < kPoints; ++k) {
    const int64_t row = tile.top - 1 + k / kPatch, column = tile.left - 1 + k % kPatch;
    const bool inside = row >= 0 && row < c.height && column >= 0 && column < c.width;
    pixels[k] = inside ? x + ((tile.picture * c.height + row) * c.width + column) * c.in : zeros;
  }
  for (int64_t at = 0; at < c.in; at += F::width) {
    F seen[kPoints], half[kPoints], found[kPatch];
    for (int k = 0; k < kPoints; ++k) seen[k] = F::load(pixels[k] + at);
    for (int k = 0; k < kPatch; ++k) transform_pixels(seen + k, kPatch, half + kPatch * k);  // each column
    float* to = inputs + at / kChunk * next_chunk + at % kChunk;
    for (int k = 0; k < kPatch; ++k) {
      // `half` holds columns of six: this is a row of the patch, down which the first transform went
      transform_pixels(half + k, kPatch, found);
      for (int l = 0; l < kPatch; ++l) found[l].store(to + (kPatch * k + l) * next_point);
    }
  }
}

// out [rows, kOutputs] = or += inputs [in / kChunk, rows, kChunk] * weights [in, kOutputs]
template <class F, bool kAdd>
TALK3D_HD void multiply_group(const float* inputs, const float* weights, int64_t in, float* out) {
  constexpr int kRows = Product<F>::rows, kVectors = Product<F>::vectors;
  F sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = F(0.0f);
  for (int64_t chunk = 0; chunk < in; chunk += kChunk, inputs += kRows * kChunk) {
    for (int k = 0; k < kChunk; ++k, weights += kOutputs<F>) {
      F w[kVectors];
      for (int v = 0; v < kVectors; ++v) w[v] = F::load(weights + v * F::width);
      for (int r = 0; r < kRows; ++r) {
        const F x(inputs[r * kChunk + k]);
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(x, w[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      float* to = out + r * kOutputs<F> + v * F::width;
      (kAdd ? F::load(to) + sums[r][v] : sums[r][v]).store(to);
    }
  }
}

// out [rows, kOutputs] = inputs [in / kChunk, rows, kChunk] * weights [in, kOutputs]
template <class F>
TALK3D_HD void multiply(const float* inputs, const float* weights, int64_t in, float* out) {
  // sums of sums: the rounding errors of one long sum grow with its length, and the transforms enlarge them
  for (int64_t at = 0; at < in; at += kGroup) {
    const float *group = inputs + at * Product<F>::rows, *factors = weights + at * kOutputs<F>;
    const int64_t count = in - at < kGroup ? in - at : kGroup;
    if (at == 0)
      multiply_group<F, false>(group, factors, count, out);
    else
      multiply_group<F, true>(group, factors, count, out);
  }
}

// The tile of one vector of output channels, the nine products of each pixel added one after another.
template <class F, class T>
void convolve_directly(
    const Convolution& c, const Activation& act, const Tile& tile, const T* x, const float* weight, F bias, T* y) {
  for (int64_t row = tile.top; row < tile.top + tile.rows(c); ++row) {
    for (int64_t column = tile.left; column < tile.left + tile.columns(c); ++column) {
      F sum(0.0f);
      for (int k = 0; k < 9; ++k) {
        const int64_t from_row = row - 1 + k / 3, from_column = column - 1 + k % 3;
        if (from_row < 0 || from_row >= c.height || from_column < 0 || from_column >= c.width) continue;
        const T* from = x + ((tile.picture * c.height + from_row) * c.width + from_column) * c.in;
        for (int64_t i = 0; i < c.in; ++i)
          sum = fma(F(Lane::load(from + i).v), F::load(weight + (k * c.in + i) * c.out), sum);
      }
      activate(act, sum + bias).store(y + ((tile.picture * c.height + row) * c.width + column) * c.out);
    }
  }
}

// Pixels of a tile, for one vector of output channels, from products `next_point` apart. False if one of them is not
// finite: the transforms carry that to pixels which do not see it.
template <class F, class T>
bool finish_tile(const Convolution& c,
                 const Activation& act,
                 const Tile& tile,
                 const float* products,
                 int64_t next_point,
                 F bias,
                 T* y) {
  F found[kPoints], half[kTile * kPatch], pixels[kTile], zero(0.0f);
  for (int k = 0; k < kPoints; ++k) found[k] = F::load(products + k * next_point);
  for (int k = 0; k < kPatch; ++k) transform_products(found + k, kPatch, half + kTile * k);
  const int rows = tile.rows(c), columns = tile.columns(c);
  T* to = y + ((tile.picture * c.height + tile.top) * c.width + tile.left) * c.out;
  for (int row = 0; row < rows; ++row, to += c.width * c.out) {
    transform_products(half + row, kTile, pixels);
    for (int k = 0; k < kTile; ++k) zero = fma(F(0.0f), pixels[k], zero);
    for (int k = 0; k < columns; ++k) activate(act, pixels[k] + bias).store(to + k * c.out);
  }
  return sum(zero) == 0.0f;
}

template <class F, class T>
void convolve(const Convolution& c,
              const Activation& act,
              const T* x,
              const float* weight,
              const float* transformed,
              const float* bias,
              T* y,
              int64_t begin,
              int64_t end) {
  constexpr int kRows = Product<F>::rows;
  const int64_t panel = kRows * c.in, next_input = Product<F>::panels * panel;
  const int64_t next_product = kTiles<F> * kOutputs<F>;
  Workspace space;
  const T* zeros = space.take<T>(c.in);
  float* inputs = space.take<float>(kPoints * next_input);
  float* products = space.take<float>(kPoints * next_product);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kTiles<F>, left = c.tiles() - first;
    const int count = left < kTiles<F> ? int(left) : kTiles<F>;
    for (int t = 0; t < count; ++t) {
      float* to = inputs + t / kRows * panel + t % kRows * kChunk;
      transform_tile<F>(c, Tile(c, first + t), x, zeros, to, next_input, kRows * kChunk);
    }
    for (int64_t out = 0; out < c.out; out += kOutputs<F>) {
      for (int k = 0; k < kPoints; ++k) {
        const float* weights = transformed + (out * kPoints + k * kOutputs<F>)*c.in;
        for (int r = 0; r < count; r += kRows)  // rows behind the last tile hold what an earlier block left
          multiply<F>(inputs + k * next_input + r * c.in, weights, c.in, products + k * next_product + r * kOutputs<F>);
      }
      for (int t = 0; t < count; ++t) {
        const Tile tile(c, first + t);
        for (int v = 0; v < kOutputs<F>; v += F::width) {
          const F offset = F::load(bias + out + v);
          if (!finish_tile(c, act, tile, products + t * kOutputs<F> + v, next_product, offset, y + out + v))
            convolve_directly(c, act, tile, x, weight + out + v, offset, y + out + v);
        }
      }
    }
  }
}

}  // namespace
}  // namespace talk3d
