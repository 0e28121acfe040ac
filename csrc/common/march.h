// From densities along a ray to the light that reaches the camera.
#pragma once

#include "math.h"

namespace talk3d {

// Added to each interval's transparency, so that an opaque one leaves something to divide by (as published).
constexpr float kClear = 1e-10f;

// Opacity of the interval between two samples: the midpoint of their raw densities acts over their distance.
template <class F>
TALK3D_HD F interval_opacity(F density, F next_density, F gap) {
  const F raw = fma(density + next_density, F(0.5f), F(-1.0f));
  return F(1.0f) - exp_negative(F(0.0f) - softplus(raw) * gap);
}

// The same, and its derivative with respect to each of the two raw densities.
template <class F>
TALK3D_HD F interval_opacity(F density, F next_density, F gap, F& slope) {
  const F raw = fma(density + next_density, F(0.5f), F(-1.0f));
  F rise;
  const F clear = exp_negative(F(0.0f) - softplus(raw, rise) * gap);
  slope = F(0.5f) * gap * clear * rise;
  return F(1.0f) - clear;
}

}  // namespace talk3d
