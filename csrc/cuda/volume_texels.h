// Gradients of texels, added up over the 32 samples of a warp (4 x 4 pixels at two depths) before they go to memory.
//
// Along each axis a sample weighs on texels by a hat: 1 where it is, 0 from a texel away. So what the samples give to a
// box of texels is a product of matrices, weights [texels x samples] times gradients [samples x channels]. Tensor cores
// take the sum over samples, and memory gets that of a texel once instead of each tap.
#pragma once

#include "cuda/volume_sums.h"

namespace talk3d {

// Of a warp, in shared memory: where its samples are along each axis, as halves. Cells are counted from the first that
// a sample with a gradient is in.
struct SamplePlaces {
  alignas(4) char cells[3][2][2 * kRaysPerWarp];   // axis, tile, row
  alignas(4) char within[3][2][2 * kRaysPerWarp];  // how far into the cell, 0 to 1

  static constexpr float kNowhere = 1024.0f;  // the cell of a sample without gradient: no texel is near

  TALK3D_DEVICE void put(int axis, int tile, int row, float cell, float share) {
    const Pair both = pack(cell, share);
    *reinterpret_cast<uint16_t*>(cells[axis][tile] + 2 * row) = static_cast<uint16_t>(both.bits);
    *reinterpret_cast<uint16_t*>(within[axis][tile] + 2 * row) = static_cast<uint16_t>(both.bits >> 16);
  }
};

template <class Field>
class TexelSums;

template <int kPlanes>
class TexelSums<HalfField<kPlanes>> {
  using Field = HalfField<kPlanes>;

 public:
  using Places = SamplePlaces;

  // Of one tile after the other, rows g and g + 8: channels 8t to 8t + 7, which count where a row has a gradient.
  template <class Add>
  TALK3D_DEVICE void put(const Field&, int, const float (&d_features)[2][8], const bool (&has)[2], Add) {
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        d_[0][row][j] = d_[1][row][j];
        const Pair two = pack(d_features[row][2 * j], d_features[row][2 * j + 1]);
        d_[1][row][j] = transpose(has[row] ? two : Pair{0});
      }
  }

  // Calls add(texel, eight numbers, a factor) with what texels get in this thread's channels, here or in put(). This
  // thread's sample is at `depth` and has a gradient or not; field.look() was there.
  template <class Add>
  TALK3D_DEVICE void finish(
      const Field& field, SamplePlaces& places, const Place& at, float depth, bool has, Add add) const {
    uint32_t first[3], size[3];  // of the box around all samples that have a gradient, in texels
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      float within;
      const uint32_t cell = field.line().cell(field.texels(), axis, depth, within);
      first[axis] = min_of_warp(has ? cell : ~0u);
      size[axis] = max_of_warp(has ? cell : 0u) - first[axis] + 2;
      const float from_first = float_of(cell) - float_of(first[axis]);
      places.put(axis, at.late, at.ray, has ? from_first : SamplePlaces::kNowhere, has ? within : 0.0f);
    }
    const bool finite = are_finite();
    sync_warp();
    uint32_t rest = 0;  // planes on which no product pays
#pragma unroll 1
    for (int p = 0; p < kPlanes; ++p) {
      // see axis_across and axis_along
      const bool depth_across = p == 2, depth_along = p == 1;
      const uint32_t pitch = field.texels().pitch;
      const uint32_t left = depth_across ? first[2] : first[0], top = depth_along ? first[2] : first[1];
      const uint32_t width = depth_across ? size[2] : size[0], height = depth_along ? size[2] : size[1];
      const Box lying{depth_across ? 2 : 0, depth_along ? 2 : 1, width, height, 1, pitch};
      const Box box = lying.shorter(Box{lying.rows_axis, lying.columns_axis, height, width, pitch, 1});
      if (finite && box.products() <= kMostProducts) {
        multiply(box, top * pitch + (left + field.texels().first[p]), places, at, add);
      } else {
        rest |= 1 << p;
      }
    }
#pragma unroll 1
    for (int p = 0; rest; ++p, rest /= 2)
      if (rest % 2) add_taps(field, p, add);
  }

 private:
  // Beyond so many products of 16 texels, each of four additions a thread, the 32 of the taps are as cheap: rays that
  // are no neighbours, or samples with a gap between them.
  static constexpr uint32_t kMostProducts = 5;

  // Texels of a plane: a product has two rows of eight columns.
  struct Box {
    int columns_axis, rows_axis;
    uint32_t columns, rows;      // how many
    uint32_t to_column, to_row;  // from a texel to the next

    TALK3D_DEVICE uint32_t products() const { return (columns + 7) / 8 * ((rows + 1) / 2); }
    TALK3D_DEVICE Box shorter(const Box& other) const {
      const bool mine = products() <= other.products();
      return {mine ? columns_axis : other.columns_axis, mine ? rows_axis : other.rows_axis,
              mine ? columns : other.columns,           mine ? rows : other.rows,
              mine ? to_column : other.to_column,       mine ? to_row : other.to_row};
    }
  };

  // Of samples 2t and 2t + 1, and of 2t + 8 and 2t + 9, of both tiles: their cells and how far into them.
  struct Axis {
    Pair cell[2][2], within[2][2];

    TALK3D_DEVICE Axis(const SamplePlaces& places, int axis, int t) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = 4 * t + 16 * half;
          cell[tile][half] = *reinterpret_cast<const Pair*>(places.cells[axis][tile] + at);
          within[tile][half] = *reinterpret_cast<const Pair*>(places.within[axis][tile] + at);
        }
    }
  };

  template <class Add>
  TALK3D_DEVICE void multiply(
      const Box& box, uint32_t texel, const SamplePlaces& places, const Place& at, Add add) const {
    const Axis columns(places, box.columns_axis, at.t), rows(places, box.rows_axis, at.t);
#pragma unroll 1
    for (uint32_t strip = 0; strip < box.columns; strip += 8) {
      const uint32_t column = strip + at.g;
      const Pair number = twice(static_cast<float>(column));
      Pair by_column[2][2];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          by_column[tile][half] = hat(columns.cell[tile][half] - number + columns.within[tile][half]);
      uint32_t to = texel + column * box.to_column;
      Pair first = twice(0.0f);
#pragma unroll 1
      for (uint32_t row = 0; row < box.rows; row += 2) {
        Floats4 sums[4] = {};
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          Pair a[4];  // of samples 2t and 2t + 1, then 2t + 8 and 2t + 9: two rows each
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const Pair away = rows.cell[tile][half] - first, within = rows.within[tile][half];
            a[2 * half] = by_column[tile][half] * hat(away + within);
            a[2 * half + 1] = by_column[tile][half] * hat(away + (within - twice(1.0f)));
          }
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sums[j] = mma(a[0], a[1], a[2], a[3], d_[tile][0][j].bits, d_[tile][1][j].bits, sums[j]);
        }
        if (column < box.columns) {
          add(to, {sums[0].x, sums[0].y, sums[1].x, sums[1].y, sums[2].x, sums[2].y, sums[3].x, sums[3].y}, 1.0f);
          if (row + 1 < box.rows)
            add(to + box.to_row,
                {sums[0].z, sums[0].w, sums[1].z, sums[1].w, sums[2].z, sums[2].w, sums[3].z, sums[3].w}, 1.0f);
        }
        to += 2 * box.to_row;
        first = first + twice(2.0f);
      }
    }
  }

  // Tap by tap.
  template <class Add>
  TALK3D_DEVICE void add_taps(const Field& field, int plane, Add add) const {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float d[8];
        bool has = false;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const Pair two = transpose(d_[tile][row][j]);
          d[2 * j] = low(two);
          d[2 * j + 1] = high(two);
          has |= two.bits != 0;
        }
        field.for_each_tap(plane, 2 * tile + row, [&](uint32_t texel, float weight) {
          if (has) add(texel, d, weight);
        });
      }
  }

  // Otherwise a product would spread what is not to all of a box.
  TALK3D_DEVICE bool are_finite() const {
    Pair nothing = twice(0.0f);
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int j = 0; j < 4; ++j) nothing = fma(d_[1][row][j], twice(0.0f), fma(d_[0][row][j], twice(0.0f), nothing));
    return !any(nothing.bits & 0x7fff7fff);
  }

  Pair d_[2][2][4] = {};  // tile, rows 0 to 7 or 8 to 15 of it, channels' tile: right operands
};

// Of float32, whose operands would be sums of two halves: tap by tap.
template <int kPlanes>
class TexelSums<FloatField<kPlanes>> {
  using Field = FloatField<kPlanes>;

 public:
  struct Places {};

  template <class Add>
  TALK3D_DEVICE void put(
      const Field& field, int tile, const float (&d_features)[2][8], const bool (&has)[2], Add add) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      if (!has[row]) continue;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p)
        field.for_each_tap(p, 2 * tile + row,
                           [&](uint32_t texel, float weight) { add(texel, d_features[row], weight); });
    }
  }
  template <class Add>
  TALK3D_DEVICE void finish(const Field&, Places&, const Place&, float, bool, Add) const {}
};

}  // namespace talk3d
