// Where a point falls on a plane, and what it sees there.
#pragma once

#include "math.h"

namespace talk3d {

// The four texels around a point, in the order (row, column) = 00, 01, 10, 11. An index is always inside the plane; a
// texel that is outside has weight 0 (zero padding). A coordinate that is not a number gives weights that are not.
template <class F>
struct Taps {
  typename F::Int texel[4];  // row * width + column
  F weight[4];
  F inside[4];      // 1 where the texel exists
  F across, along;  // position within the cell, 0 to 1: columns, rows
};

// u runs along the width, v along the height, both from -1 at the outer edge of the first texel to 1 at the outer edge
// of the last (grid_sample's align_corners=False).
template <class F>
TALK3D_HD Taps<F> taps(F u, F v, int width, int height) {
  const F columns(static_cast<float>(width)), rows(static_cast<float>(height));
  const F zero(0.0f), one(1.0f), half(0.5f), far(4.0f), opposite(-4.0f);
  u = max(opposite, min(far, u));  // outside a plane of any size, and still finite
  v = max(opposite, min(far, v));
  const F x = ((u + one) * columns - one) * half, y = ((v + one) * rows - one) * half;
  const F x0 = floor(x), y0 = floor(y), x1 = x0 + one, y1 = y0 + one;
  const F last_column = columns - one, last_row = rows - one;

  const F zero_one_x[2] = {select(less(x0, zero), zero, select(less(last_column, x0), zero, one)),
                           select(less(x1, zero), zero, select(less(last_column, x1), zero, one))};
  const F zero_one_y[2] = {select(less(y0, zero), zero, select(less(last_row, y0), zero, one)),
                           select(less(y1, zero), zero, select(less(last_row, y1), zero, one))};
  const F column[2] = {min(max(x0, zero), last_column), min(max(x1, zero), last_column)};
  const F row[2] = {min(max(y0, zero), last_row), min(max(y1, zero), last_row)};

  Taps<F> t;
  t.across = x - x0;
  t.along = y - y0;
  const F share_x[2] = {one - t.across, t.across}, share_y[2] = {one - t.along, t.along};
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 2; ++i) {
      t.texel[2 * j + i] = to_int(fma(row[j], columns, column[i]));
      t.inside[2 * j + i] = zero_one_y[j] * zero_one_x[i];
      t.weight[2 * j + i] = share_y[j] * share_x[i] * t.inside[2 * j + i];
    }
  }
  return t;
}

}  // namespace talk3d
