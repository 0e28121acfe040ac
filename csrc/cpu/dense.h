// Small matrix products with lanes over the columns: rows are samples, columns are channels.
#pragma once

#include "common/lanes.h"

namespace talk3d {
namespace {

// Rows and vectors of one register block of a matrix product: accumulators, weights and one broadcast fill the
// registers.
template <class F>
struct Block;
template <>
struct Block<Lane> {
  static constexpr int rows = 1, vectors = 16;  // sixteen floats, which the compiler makes into four vectors
};
#if defined(TALK3D_TARGET_AVX2)
template <>
struct Block<Lanes8> {
  static constexpr int rows = 3, vectors = 4;  // 12 + 1 + 3 of 16 registers
};
#endif
#if defined(TALK3D_TARGET_AVX512)
template <>
struct Block<Lanes16> {
  static constexpr int rows = 6, vectors = 4;  // 24 + 4 + 1 of 32 registers
};
#endif

// out [rows, kOut] = bias + in [rows, kIn] * weight [kIn, kOut], for one block of the output
template <class F, int kRows, int kVectors, int kIn, int kOut>
TALK3D_HD void dense_block(const float* in, const float* weight, const float* bias, float* out) {
  F sums[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const F start = F::load(bias + v * F::width);
    for (int r = 0; r < kRows; ++r) sums[r][v] = start;
  }
  for (int i = 0; i < kIn; ++i) {
    F w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = F::load(weight + i * kOut + v * F::width);
    for (int r = 0; r < kRows; ++r) {
      const F x(in[r * kIn + i]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(x, w[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v].store(out + r * kOut + v * F::width);
  }
}

// A layer without its activation; in and out may not overlap.
template <class F, int kIn, int kOut>
void dense(const float* in, const float* weight, const float* bias, float* out, int rows) {
  constexpr int kAll = kOut / F::width;
  constexpr int kVectors = Block<F>::vectors < kAll ? Block<F>::vectors : kAll;
  constexpr int kRows = Block<F>::rows * Block<F>::vectors / kVectors;  // a narrow output leaves room for more rows
  int row = 0;
  for (; row + kRows <= rows; row += kRows) {
    for (int v = 0; v < kAll; v += kVectors) {
      const int at = v * F::width;
      dense_block<F, kRows, kVectors, kIn, kOut>(in + row * kIn, weight + at, bias + at, out + row * kOut + at);
    }
  }
  for (; row < rows; ++row) {
    for (int v = 0; v < kAll; v += kVectors) {
      const int at = v * F::width;
      dense_block<F, 1, kVectors, kIn, kOut>(in + row * kIn, weight + at, bias + at, out + row * kOut + at);
    }
  }
}

// out [kLeft, kRight] += left^T [kLeft, rows] * right [rows, kRight]
template <class F, int kLeft, int kRight>
void add_outer(const float* left, const float* right, int rows, float* out) {
  constexpr int kAll = kRight / F::width;
  constexpr int kVectors = Block<F>::vectors < kAll ? Block<F>::vectors : kAll;
  constexpr int kRows = 4 * Block<F>::vectors / kVectors;  // divides every kLeft in use
  static_assert(kLeft % kRows == 0 && kAll % kVectors == 0);
  for (int l = 0; l < kLeft; l += kRows) {
    for (int v = 0; v < kAll; v += kVectors) {
      float* block = out + l * kRight + v * F::width;
      F sums[kRows][kVectors];
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kVectors; ++j) sums[i][j] = F::load(block + i * kRight + j * F::width);
      for (int r = 0; r < rows; ++r) {
        F x[kVectors];
        for (int j = 0; j < kVectors; ++j) x[j] = F::load(right + r * kRight + (v + j) * F::width);
        for (int i = 0; i < kRows; ++i) {
          const F y(left[r * kLeft + l + i]);
          for (int j = 0; j < kVectors; ++j) sums[i][j] = fma(y, x[j], sums[i][j]);
        }
      }
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kVectors; ++j) sums[i][j].store(block + i * kRight + j * F::width);
    }
  }
}

// out [kWidth] += the sum of rows [rows, kWidth]
template <class F, int kWidth>
void add_rows(const float* rows_in, int rows, float* out) {
  for (int v = 0; v < kWidth; v += F::width) {
    F total = F::load(out + v);
    for (int r = 0; r < rows; ++r) total = total + F::load(rows_in + r * kWidth + v);
    total.store(out + v);
  }
}

template <class F>
void copy_row(const float* from, float* to, int width) {
  for (int k = 0; k < width; k += F::width) F::load(from + k).store(to + k);
}

}  // namespace
}  // namespace talk3d
