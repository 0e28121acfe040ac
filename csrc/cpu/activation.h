// What stands behind a convolution or a filter: y = clamp(gain * act(x)).
#pragma once

#include "common/lanes.h"

namespace talk3d {

// Gain on either side of zero, and the largest magnitude that remains.
struct Activation {
  float positive, negative, clamp;
  float below_clamp;  // the largest magnitude at which a result was not clamped
};

template <class F>
TALK3D_HD F activate(const Activation& act, F x) {
  const F y = x * select(less(F(0.0f), x), F(act.positive), F(act.negative));
  return min(F(act.clamp), max(F(-act.clamp), y));
}

}  // namespace talk3d
