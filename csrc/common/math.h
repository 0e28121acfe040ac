// Elementary functions on lanes.
#pragma once

#include "lanes.h"

namespace talk3d {

// e^x for x <= 0, relative error below 1.5e-7; below e^-87, the smallest normal number, it stays there.
template <class F>
TALK3D_HD F exp_negative(F x) {
  x = max(F(-87.0f), x);
  const F shifted = fma(x, F(1.44269504f), F(kShift));
  const F r = fma(shifted - F(kShift), F(-0.693147182f), x);
  // minimax of (e^r - 1 - r) / r^2 on +-ln 2 / 2: 3e-9
  F p = fma(r, F(0.00138151541f), F(0.00836879387f));
  p = fma(p, r, F(0.0416683853f));
  p = fma(p, r, F(0.166665196f));
  p = fma(p, r, F(0.49999994f));
  p = fma(p, r, F(1.0f));
  return scale_by_power(fma(p, r, F(1.0f)), shifted);
}

// log(1 + z) for z in [0, 1], relative error below 1e-7, so that small densities keep their digits.
template <class F>
TALK3D_HD F log1p_unit(F z) {
  // minimax of log(1 + z) / z: 3e-8
  F p = fma(z, F(0.00523262378f), F(-0.0295049567f));
  p = fma(p, z, F(0.0782254934f));
  p = fma(p, z, F(-0.13663207f));
  p = fma(p, z, F(0.191059887f));
  p = fma(p, z, F(-0.248429775f));
  p = fma(p, z, F(0.333190948f));
  p = fma(p, z, F(-0.499994934f));
  p = fma(p, z, F(0.99999994f));
  return p * z;
}

template <class F>
TALK3D_HD F softplus(F x) {
  return max(F(0.0f), x) + log1p_unit(exp_negative(minus_abs(x)));
}

template <class F>
TALK3D_HD F sigmoid(F x) {
  const F e = exp_negative(minus_abs(x));
  return select(less(x, F(0.0f)), e, F(1.0f)) * reciprocal(e + F(1.0f));
}

// softplus and its derivative, which is the sigmoid, from one exponential
template <class F>
TALK3D_HD F softplus(F x, F& slope) {
  const F e = exp_negative(minus_abs(x));
  slope = select(less(x, F(0.0f)), e, F(1.0f)) * reciprocal(e + F(1.0f));
  return max(F(0.0f), x) + log1p_unit(e);
}

}  // namespace talk3d
