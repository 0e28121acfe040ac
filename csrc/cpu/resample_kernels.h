// Resampling and activations on a lane type F. Included by one translation unit for each instruction set.
//
// Lanes run over channels, or over the channels of many columns where all are treated alike.
#pragma once

#include "cpu/resample.h"

namespace talk3d {
namespace {

constexpr int kVectors = 4;  // sums that are held in registers

template <class F, class T>
TALK3D_HD void bias_act_at(const Activation& act, const T* x, F bias, T* y) {
  activate(act, F::load(x) + bias).store(y);
}

template <class F, class T>
void bias_act(const Activation& act, const T* x, const float* bias, bool one_bias, T* y, int64_t count) {
  int64_t k = 0;
  if (one_bias) {
    for (; k + F::width <= count; k += F::width) bias_act_at<F>(act, x + k, F(*bias), y + k);
    for (; k < count; ++k) bias_act_at<Lane>(act, x + k, Lane(*bias), y + k);
  } else {
    for (; k + F::width <= count; k += F::width) bias_act_at<F>(act, x + k, F::load(bias + k), y + k);
    for (; k < count; ++k) bias_act_at<Lane>(act, x + k, Lane(bias[k]), y + k);
  }
}

template <class F, class T>
TALK3D_HD void differentiate_at(const Activation& act, const T* d_y, const T* y, T* d_x) {
  const F found = F::load(y);
  const F slope = select(less(F(0.0f), found), F(act.positive), F(act.negative));
  const F kept = select(less(minus_abs(found), F(-act.below_clamp)), F(0.0f), slope);
  (F::load(d_y) * kept).store(d_x);
}

template <class F, class T>
void bias_act_backward(const Activation& act, const T* d_y, const T* y, T* d_x, int64_t count) {
  int64_t k = 0;
  for (; k + F::width <= count; k += F::width) differentiate_at<F>(act, d_y + k, y + k, d_x + k);
  for (; k < count; ++k) differentiate_at<Lane>(act, d_y + k, y + k, d_x + k);
}

// sums [kCount * F::width] = weighted sum of what lies at the taps
template <class F, int kCount, class T>
TALK3D_HD void weigh(const T* from, const Tap* begin, const Tap* end, F* sums) {
  for (int v = 0; v < kCount; ++v) sums[v] = F(0.0f);
  for (const Tap* tap = begin; tap < end; ++tap) {
    const F weight(tap->weight);
    for (int v = 0; v < kCount; ++v) sums[v] = fma(weight, F::load(from + tap->offset + v * F::width), sums[v]);
  }
}

template <class F, int kCount, class T>
TALK3D_HD void weigh_line(const T* from, const Tap* begin, const Tap* end, float* line) {
  F sums[kCount];
  weigh<F, kCount>(from, begin, end, sums);
  for (int v = 0; v < kCount; ++v) sums[v].store(line + v * F::width);
}

template <class F, bool kActivate, int kCount, class T>
TALK3D_HD void weigh_sample(
    const Activation& act, const float* lines, const Tap* begin, const Tap* end, const float* bias, T* y) {
  F sums[kCount];
  weigh<F, kCount>(lines, begin, end, sums);
  for (int v = 0; v < kCount; ++v) {
    if (kActivate) sums[v] = activate(act, sums[v] + F::load(bias + v * F::width));
    sums[v].store(y + v * F::width);
  }
}

// line [count] = weighted sum of rows
template <class F, class T>
TALK3D_HD void make_line(const T* x, const Tap* begin, const Tap* end, float* line, int64_t count) {
  int64_t k = 0;
  for (; k + kVectors * F::width <= count; k += kVectors * F::width)
    weigh_line<F, kVectors>(x + k, begin, end, line + k);
  for (; k + F::width <= count; k += F::width) weigh_line<F, 1>(x + k, begin, end, line + k);
  for (; k < count; ++k) weigh_line<Lane, 1>(x + k, begin, end, line + k);
}

// y [channels] = weighted sum of columns of lines, activated
template <class F, bool kActivate, class T>
TALK3D_HD void make_sample(const Activation& act,
                           const float* lines,
                           const Tap* begin,
                           const Tap* end,
                           const float* bias,
                           T* y,
                           int64_t channels) {
  constexpr int kFew = 2 * F::width, kMany = kVectors * F::width;
  int64_t c = 0;
  for (; c + kMany <= channels; c += kMany)
    weigh_sample<F, kActivate, kVectors>(act, lines + c, begin, end, bias + c, y + c);
  for (; c + kFew <= channels; c += kFew) weigh_sample<F, kActivate, 2>(act, lines + c, begin, end, bias + c, y + c);
  for (; c + F::width <= channels; c += F::width)
    weigh_sample<F, kActivate, 1>(act, lines + c, begin, end, bias + c, y + c);
  for (; c < channels; ++c) weigh_sample<Lane, kActivate, 1>(act, lines + c, begin, end, bias + c, y + c);
}

struct Tile {
  int64_t picture, top, bottom, left, right;  // samples of the result
  int64_t first, count;                       // columns of the picture, in numbers

  TALK3D_HD Tile(const Resampling& r, int64_t number) {
    const int64_t across = (r.columns.out + r.tile_columns - 1) / r.tile_columns;
    const int64_t down = (r.rows.out + r.tile_rows - 1) / r.tile_rows;
    left = number % across * r.tile_columns;
    right = left + r.tile_columns < r.columns.out ? left + r.tile_columns : r.columns.out;
    top = number / across % down * r.tile_rows;
    bottom = top + r.tile_rows < r.rows.out ? top + r.tile_rows : r.rows.out;
    picture = number / across / down;
    first = r.columns.first(left) * r.channels;
    count = r.columns.last(right) * r.channels - first;
    if (count < 0) count = 0;
  }
};

// For each sample of row `y`, what it takes from the lines, one after another; `ends` has a number for each, and a 0.
TALK3D_HD void list_columns(const Resampling& r, const Tile& tile, int64_t y, Tap* taps, int64_t* ends) {
  int64_t listed = 0;
  ends[0] = 0;
  for (int64_t x = tile.left; x < tile.right; ++x) {
    int64_t line = 0;
    for (int64_t row = 0; row < (r.outer ? 1 : r.rows.taps); ++row) {
      if (!r.outer && r.rows.source(y, row) < 0) continue;
      for (int64_t k = 0; k < r.columns.taps; ++k) {
        const int64_t from = r.columns.source(x, k);
        if (from < 0) continue;
        taps[listed++] = {line * tile.count + from * r.channels - tile.first,
                          r.column_weights[row * r.columns.taps + k]};
      }
      ++line;
    }
    ends[x - tile.left + 1] = listed;
  }
}

template <class F, class T>
TALK3D_HD void make_lines(const Resampling& r, const Tile& tile, int64_t y, const T* x, Tap* taps, float* lines) {
  const int64_t row_size = r.columns.size * r.channels;
  int64_t listed = 0;
  for (int64_t k = 0; k < r.rows.taps; ++k) {
    const int64_t from = r.rows.source(y, k);
    if (from < 0) continue;
    taps[listed++] = {from * row_size, r.outer ? r.row_weights[k] : 1.0f};
    if (!r.outer) make_line<F>(x, taps + listed - 1, taps + listed, lines + (listed - 1) * tile.count, tile.count);
  }
  if (r.outer) make_line<F>(x, taps, taps + listed, lines, tile.count);
}

template <class F, bool kActivate, class T>
void resample(const Resampling& r,
              const Activation& act,
              const T* x,
              const float* bias,
              T* y,
              const Scratch& scratch,
              int64_t begin,
              int64_t end) {
  for (int64_t number = begin; number < end; ++number) {
    const Tile tile(r, number);
    const T* from = x + tile.picture * r.rows.size * r.columns.size * r.channels + tile.first;
    for (int64_t row = tile.top; row < tile.bottom; ++row) {
      if (row == tile.top || !r.outer) list_columns(r, tile, row, scratch.columns, scratch.ends);
      make_lines<F>(r, tile, row, from, scratch.rows, scratch.lines);
      T* to = y + ((tile.picture * r.rows.out + row) * r.columns.out + tile.left) * r.channels;
      for (int64_t k = 0; k < tile.right - tile.left; ++k, to += r.channels) {
        const Tap* taps = scratch.columns;
        make_sample<F, kActivate>(act, scratch.lines, taps + scratch.ends[k], taps + scratch.ends[k + 1], bias, to,
                                  r.channels);
      }
    }
  }
}

template <class F, class T>
constexpr ResampleKernels<T> resample_kernels() {
  return {&bias_act<F, T>, &bias_act_backward<F, T>, &resample<F, false, T>, &resample<F, true, T>};
}

}  // namespace
}  // namespace talk3d
