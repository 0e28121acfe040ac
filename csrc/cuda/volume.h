// What the kernels of render_rays are given, and how rays are dealt to warps.
#pragma once

#include "common/packing.h"
#include "common/volume.h"
#include "cuda/simt.h"

namespace talk3d {

constexpr int kWarpsPerBlock = 4;
constexpr int kThreadsPerBlock = 32 * kWarpsPerBlock;
constexpr int kRaysPerWarp = 16;  // rows of a tensor core's tile
constexpr int kRaysPerBlock = kRaysPerWarp * kWarpsPerBlock;

// The planes as a kernel reads them: square, texels of 32 channels, channels-last, with a border of zeros one texel
// wide. They see (x, y), (x, z) and (z, y), or only the first two; common/packing.h brings them into this order.
struct Texels {
  const char* data;      // [1 or B, 2 or 3, size + 2, size + 2, 32]
  int64_t batch_stride;  // in bytes; 0 where all cameras share the planes
  int size;              // without the border
  float scale;           // world to plane coordinates

  // Numbers of the inner loop, in the constant memory that holds a kernel's arguments.
  uint32_t pitch;     // texels in a row
  float cells;        // a bit less than size + 1, so that the last point of the last cell is still in it
  uint32_t first[3];  // texel of each plane, see HalfField::project

  // 2^23: a sum with it, rounded down, is a whole number, which the last bits of its representation hold.
  static constexpr float kWhole = 8388608.0f;
  static constexpr uint32_t kWholeBits = 0x4b000000;

  void prepare() {
    pitch = size + 2;
    cells = (size + 1) * 0.99999994f;
    for (uint32_t p = 0; p < 3; ++p) first[p] = p * pitch * pitch - kWholeBits * (pitch + 1);
  }
};

// A ray on the planes: from 0 on the first texel of the border to 1 on the last.
struct Line {
  float origin[3], direction[3];

  TALK3D_DEVICE Line(const Texels& texels, const float* ray) {
    const float size = static_cast<float>(texels.size), scale = 0.5f * texels.scale * size / (size + 1.0f);
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      origin[axis] = fmaf(ray[axis], scale, 0.5f);
      direction[axis] = ray[3 + axis] * scale;
    }
  }

  // The cell in which the ray is at `depth`, along one axis, and how far into it, 0 to 1. Outside of the planes
  // everything is as on the border.
  TALK3D_DEVICE uint32_t cell(const Texels& texels, int axis, float depth, float& within) const {
    const float u = fma_saturated(depth, direction[axis], origin[axis]);
    const float whole = fma_down(u, texels.cells, Texels::kWhole);
    within = fmaf(u, texels.cells, Texels::kWhole - whole);
    return bits_of(whole);
  }
};

// A block takes 64 rays: 8 x 8 pixels where the rays of a camera fill a square picture, row by row, so that neighbours
// share texels; otherwise 64 in a row. It is a guess about speed alone: any assignment is right.
struct Dealing {
  int64_t rays;   // of one camera
  int64_t tiles;  // of one camera
  int side;       // of the picture in pixels, or 0

  static Dealing of(int64_t rays) {
    int64_t side = 0;
    while (side * side < rays) side += 8;
    return {rays, (rays + kRaysPerBlock - 1) / kRaysPerBlock, side * side == rays ? static_cast<int>(side) : 0};
  }

  // The ray's number within its camera; not below `rays` where a place of the last tile stays empty. A warp has a
  // quarter of the tile, 4 x 4 pixels.
  TALK3D_HD int64_t ray(int64_t tile, int warp, int row) const {
    if (!side) return tile * kRaysPerBlock + warp * kRaysPerWarp + row;
    const int across = side / 8, y = static_cast<int>(tile / across) * 8 + warp / 2 * 4 + row / 4;
    return int64_t(y) * side + static_cast<int>(tile % across) * 8 + warp % 2 * 4 + row % 4;
  }
};

struct RenderArguments {
  Texels texels;
  const float* decoder;  // flat
  Rays rays;
  March march;
  Dealing dealing;
  Image image;
};

// A thread's place. A warp takes two samples of each of its 16 rays at a time: the tile of the nearer ones and that of
// the farther. Row g or g + 8 of a tile is a ray; the four threads of a quad share two rays, and each looks after one
// of their four samples: `ray` at the nearer or (`late`) the farther depth.
struct Place {
  int thread, warp, lane, g, t;
  int ray;  // 0 to 15, of the warp
  bool odd, late;

  TALK3D_DEVICE explicit Place(int thread_of_block)
      : thread(thread_of_block),
        warp(thread_of_block / 32),
        lane(thread_of_block % 32),
        g(lane / 4),
        t(lane % 4),
        ray(g + 8 * (t % 2)),
        odd(t % 2),
        late(t / 2) {}
};

}  // namespace talk3d
