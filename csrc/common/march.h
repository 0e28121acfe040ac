// From densities along a ray to the light that reaches the camera.
#pragma once

#include "math.h"

namespace talk3d {

// Added to each interval's transparency, so that an opaque one leaves something to divide by (as published).
constexpr float kClear = 1e-10f;

// What the interval between two samples lets through: the midpoint of their raw densities acts over their distance.
template <class F>
TALK3D_HD F interval_transparency(F density, F next_density, F gap) {
  const F raw = fma(density + next_density, F(0.5f), F(-1.0f));
  return exp_negative(F(0.0f) - softplus(raw) * gap);
}

// The same, and the derivative of the opacity with respect to each of the two raw densities.
template <class F>
TALK3D_HD F interval_transparency(F density, F next_density, F gap, F& slope) {
  const F raw = fma(density + next_density, F(0.5f), F(-1.0f));
  F rise;
  const F clear = exp_negative(F(0.0f) - softplus(raw, rise) * gap);
  slope = F(0.5f) * gap * clear * rise;
  return clear;
}

template <class F>
TALK3D_HD F interval_opacity(F density, F next_density, F gap) {
  return F(1.0f) - interval_transparency(density, next_density, gap);
}

template <class F>
TALK3D_HD F interval_opacity(F density, F next_density, F gap, F& slope) {
  return F(1.0f) - interval_transparency(density, next_density, gap, slope);
}

}  // namespace talk3d
