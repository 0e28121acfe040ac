// What the boxed operators hand to the kernels of one instruction set.
#pragma once

#include <cstdint>

#include "common/lanes.h"
#include "cpu/activation.h"

namespace talk3d {

struct Tap {
  int64_t offset;  // in elements
  float weight;
};

// One of the two sides of a picture, and how it becomes another.
struct Axis {
  int64_t size, out, up, down, padding, taps;

  // Where tap `k` of sample `at` falls, or -1: on a zero that was put in, or on the rim.
  TALK3D_HD int64_t source(int64_t at, int64_t k) const {
    const int64_t place = at * down + k - padding;
    return place < 0 || place % up || place / up >= size ? -1 : place / up;
  }
  // Which sources samples [from, to) see.
  TALK3D_HD int64_t first(int64_t from) const {
    const int64_t place = from * down - padding;
    return place <= 0 ? 0 : (place + up - 1) / up;
  }
  TALK3D_HD int64_t last(int64_t to) const {  // and one
    const int64_t place = (to - 1) * down + taps - 1 - padding;
    return place < 0 ? 0 : place / up < size ? place / up + 1 : size;
  }
};

// Pictures [pictures, height, width, channels], filtered by the tile: so many columns of so many rows.
//
// A filter that is an outer product needs one line of floats for each row of the result, the weighted sum of rows of
// the picture; its columns are summed from there. Any other filter has a line for each of its own rows.
struct Resampling {
  Axis rows, columns;
  int64_t pictures, channels;
  bool outer;
  const float* row_weights;     // [rows.taps], of an outer product
  const float* column_weights;  // [1 or rows.taps, columns.taps]
  int64_t tile_rows, tile_columns;

  int64_t bands() const { return (rows.out + tile_rows - 1) / tile_rows; }
  int64_t tiles_per_band() const { return (columns.out + tile_columns - 1) / tile_columns; }
  int64_t tiles() const { return pictures * bands() * tiles_per_band(); }
  int64_t lines() const { return outer ? 1 : (rows.taps + rows.up - 1) / rows.up; }
  int64_t taps_per_sample() const { return lines() * ((columns.taps + columns.up - 1) / columns.up); }
  int64_t line_size() const {
    const int64_t seen = ((tile_columns - 1) * columns.down + columns.taps - 1) / columns.up + 1;
    return seen * channels;
  }
};

// What one tile works in.
struct Scratch {
  float* lines;   // [lines, line_size]
  Tap* rows;      // [rows.taps]
  Tap* columns;   // [tile_columns, taps_per_sample]
  int64_t* ends;  // [tile_columns + 1]: where the taps of each sample end
};

template <class T>
struct ResampleKernels {
  using Resample = void (*)(const Resampling&,
                            const Activation&,
                            const T* x,
                            const float* bias,
                            T* y,
                            const Scratch&,
                            int64_t begin,
                            int64_t end);
  // y = act(x + bias) for `count` numbers in a row, with a bias for each or one for all
  void (*bias_act)(const Activation&, const T* x, const float* bias, bool one_bias, T* y, int64_t count);
  void (*bias_act_backward)(const Activation&, const T* d_y, const T* y, T* d_x, int64_t count);
  // Tiles [begin, end), with bias [channels]; the first neither adds nor activates.
  Resample resample, resample_bias_act;
};

struct ResampleKernelSet {
  ResampleKernels<float> floats;
  ResampleKernels<Bf16> halves;

  template <class T>
  const ResampleKernels<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return floats;
    else
      return halves;
  }
};

extern const ResampleKernelSet kResamplePortable, kResampleAvx2, kResampleAvx512;

}  // namespace talk3d
