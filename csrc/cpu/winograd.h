// Winograd's minimal filtering F(4 x 4, 3 x 3) on a lane type F: 36 products make 16 sums of nine. Turned round, it is
// F(3 x 3, 4 x 4): 36 products make the nine sums of sixteen that a tile adds to the gradient of the weights.
//
// The interpolation points are 0, +-1/sqrt(2), +-sqrt(2) and infinity. With the usual 0, +-1, +-2 the rounding errors
// of float32 are twice as large, for the powers of 2 spread the magnitudes (Barabasz et al. 2020, "Error analysis and
// improving the accuracy of Winograd convolution").
#pragma once

#include "cpu/convolution.h"

namespace talk3d {
namespace {

constexpr float kNear = 0.70710678118654752f, kFar = 1.4142135623730950f;  // the points; their squares are 1/2 and 2

// B^T d: six pixels in a row, `step` apart
template <class F>
TALK3D_HD void transform_pixels(const F* d, int step, F* to) {
  const F d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
  const F even_near = fma(F(-2.0f), d2, d4), odd_near = F(kNear) * fma(F(-2.0f), d1, d3);
  const F even_far = fma(F(-0.5f), d2, d4), odd_far = F(kFar) * fma(F(-0.5f), d1, d3);
  to[0] = fma(F(-2.5f), d2, d[0] + d4);
  to[1] = even_near + odd_near;
  to[2] = even_near - odd_near;
  to[3] = even_far + odd_far;
  to[4] = even_far - odd_far;
  to[5] = fma(F(-2.5f), d3, d1 + d[5 * step]);
}

// G g: three weights in a row
template <class F>
TALK3D_HD void transform_weights(const F* g, int step, F* to) {
  const F g0 = g[0], g1 = g[step], g2 = g[2 * step];
  const F even_near = fma(F(0.5f), g2, g0), odd_near = F(kNear) * g1;
  const F even_far = fma(F(2.0f), g2, g0), odd_far = F(kFar) * g1;
  to[0] = g0;
  to[1] = F(-1.0f / 1.5f) * (even_near + odd_near);
  to[2] = F(-1.0f / 1.5f) * (even_near - odd_near);
  to[3] = F(1.0f / 6.0f) * (even_far + odd_far);
  to[4] = F(1.0f / 6.0f) * (even_far - odd_far);
  to[5] = g2;
}

// A^T m: four sums from six products, `step` apart
template <class F>
TALK3D_HD void transform_products(const F* m, int step, F* to) {
  const F near = m[step] + m[2 * step], odd_near = F(kNear) * (m[step] - m[2 * step]);
  const F far = m[3 * step] + m[4 * step], odd_far = F(kFar) * (m[3 * step] - m[4 * step]);
  to[0] = m[0] + near + far;
  to[1] = odd_near + odd_far;
  to[2] = fma(F(2.0f), far, F(0.5f) * near);
  to[3] = fma(F(2.0f), odd_far, fma(F(0.5f), odd_near, m[5 * step]));
}

// A y: four gradients in a row
template <class F>
TALK3D_HD void transform_gradients(const F* y, int step, F* to) {
  const F y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step];
  const F even_near = fma(F(0.5f), y2, y0), odd_near = F(kNear) * fma(F(0.5f), y3, y1);
  const F even_far = fma(F(2.0f), y2, y0), odd_far = F(kFar) * fma(F(2.0f), y3, y1);
  to[0] = y0;
  to[1] = even_near + odd_near;
  to[2] = even_near - odd_near;
  to[3] = even_far + odd_far;
  to[4] = even_far - odd_far;
  to[5] = y3;
}

// G^T m: three sums from six products, `step` apart
template <class F>
TALK3D_HD void transform_sums(const F* m, int step, F* to) {
  const F near = F(-1.0f / 1.5f) * (m[step] + m[2 * step]), odd_near = m[step] - m[2 * step];
  const F far = F(1.0f / 6.0f) * (m[3 * step] + m[4 * step]), odd_far = m[3 * step] - m[4 * step];
  to[0] = m[0] + near + far;
  to[1] = fma(F(-kNear / 1.5f), odd_near, F(kFar / 6.0f) * odd_far);
  to[2] = fma(F(2.0f), far, fma(F(0.5f), near, m[5 * step]));
}

}  // namespace
}  // namespace talk3d
