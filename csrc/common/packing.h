// From planes of any convention to those that the CUDA kernels of render_rays read: (x, y), (x, z) and (z, y), the
// first coordinate along the width, with a border of zeros. A plane that sees its two coordinates the other way round
// is transposed; of two planes that see the same coordinates one is added to the other.
#pragma once

#include <cstdint>
#include <vector>

#include "lanes.h"

namespace talk3d {

TALK3D_HD constexpr int axis_across(int plane) { return plane == 2 ? 2 : 0; }
TALK3D_HD constexpr int axis_along(int plane) { return plane == 1 ? 2 : 1; }

struct Packing {
  struct Source {
    int plane = -1;  // none
    bool transposed = false;
  };
  Source of[3][3];  // the planes that make a packed one: up to all may see the same
  Source in[3];     // the packed plane that a plane went into
  int planes = 0;   // packed: 2 or 3
  int given = 0;    // as they come
  int size = 0;

  Packing(const std::vector<int64_t>& pairs, int size) : given(static_cast<int>(pairs.size() / 2)), size(size) {
    for (int plane = 0; plane < given; ++plane) {
      for (int packed = 0; packed < 3; ++packed) {
        const int first = static_cast<int>(pairs[2 * plane]), second = static_cast<int>(pairs[2 * plane + 1]);
        const bool straight = first == axis_across(packed) && second == axis_along(packed);
        if (!straight && !(second == axis_across(packed) && first == axis_along(packed))) continue;
        int place = 0;
        while (of[packed][place].plane >= 0) ++place;
        of[packed][place] = {plane, !straight};
        in[plane] = {packed, !straight};
        if (packed >= planes) planes = packed + 1;
      }
    }
    if (planes < 2) planes = 2;  // what no plane sees stays zero
  }

  TALK3D_HD int64_t texels() const { return int64_t(size + 2) * (size + 2); }  // of a packed plane

  // Calls add(texel of the planes as they come, [P, size, size]) for what belongs to a texel [planes, size + 2, size +
  // 2].
  template <class Add>
  TALK3D_HD void gather(int64_t texel, Add add) const {
    const int packed = static_cast<int>(texel / texels()), within = static_cast<int>(texel % texels());
    const int row = within / (size + 2) - 1, column = within % (size + 2) - 1;
    if (row < 0 || row >= size || column < 0 || column >= size) return;
    for (int k = 0; k < 3 && of[packed][k].plane >= 0; ++k) {
      const int64_t place = of[packed][k].transposed ? int64_t(column) * size + row : int64_t(row) * size + column;
      add(of[packed][k].plane * int64_t(size) * size + place);
    }
  }

  // The texel, of those that are packed, to which a texel of the planes as they come was added: whose gradient it has.
  TALK3D_HD int64_t packed_texel(int64_t texel) const {
    const int64_t within = texel % (int64_t(size) * size);
    const Source& to = in[texel / (int64_t(size) * size)];
    const int64_t row = within / size + 1, column = within % size + 1;
    return to.plane * texels() + (to.transposed ? column * (size + 2) + row : row * (size + 2) + column);
  }
};

}  // namespace talk3d
