// An identity's planes, as the kernels of render_rays read them, and what moves them: their sum in one pass.
#pragma once

#include "common/packing.h"
#include "cuda/simt.h"

namespace talk3d {

constexpr int kAddThreads = 256;
constexpr int kAddGroup = 8, kAddGroups = 4;  // channels of a thread, threads of a texel

struct Half {
  uint16_t bits;
};

struct AddArguments {
  Packing packing;       // of the delta
  int64_t frames;        // of the sum
  const void* planes;    // [1 or frames, 2 or 3, size + 2, size + 2, 32]
  int64_t batch_stride;  // of them, in numbers; 0 where all frames share them
  const void* delta;     // [frames, P, size, size, 32], texels without gaps
  int64_t delta_batch_stride, delta_plane_stride;
  void* to;  // [frames, 2 or 3, size + 2, size + 2, 32]
};

struct EightFloats {
  float at[kAddGroup];
};

TALK3D_DEVICE EightFloats load_eight(const float* from) {
  const Floats4 a = load_floats(from), b = load_floats(from + 4);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
TALK3D_DEVICE EightFloats load_eight(const Half* from) {
  const Quad q = load_quad(reinterpret_cast<const Quad*>(from));
  const Pair pairs[4] = {{q.x}, {q.y}, {q.z}, {q.w}};
  EightFloats found;
  for (int k = 0; k < 4; ++k) {
    found.at[2 * k] = low(pairs[k]);
    found.at[2 * k + 1] = high(pairs[k]);
  }
  return found;
}
TALK3D_DEVICE EightFloats load_eight(const Bf16* from) {
  const Quad q = load_quad(reinterpret_cast<const Quad*>(from));
  const uint32_t words[4] = {q.x, q.y, q.z, q.w};
  EightFloats found;
  for (int k = 0; k < 4; ++k) {
    found.at[2 * k] = float_of(words[k] << 16);
    found.at[2 * k + 1] = float_of(words[k] & 0xffff0000u);
  }
  return found;
}

TALK3D_DEVICE void store_eight(float* to, const EightFloats& a) {
  reinterpret_cast<Floats4*>(to)[0] = {a.at[0], a.at[1], a.at[2], a.at[3]};
  reinterpret_cast<Floats4*>(to)[1] = {a.at[4], a.at[5], a.at[6], a.at[7]};
}
TALK3D_DEVICE void store_eight(Half* to, const EightFloats& a) {
  *reinterpret_cast<Quad*>(to) = {pack(a.at[0], a.at[1]).bits, pack(a.at[2], a.at[3]).bits, pack(a.at[4], a.at[5]).bits,
                                  pack(a.at[6], a.at[7]).bits};
}

// What a thread does. Sums are taken in float32 and rounded once; the border stays that of the planes.
template <class Planes, class Delta>
TALK3D_DEVICE void add_texel(const AddArguments& s, int64_t block, int thread) {
  const int64_t at = block * kAddThreads + thread, texel = at / kAddGroups;
  const int64_t texels = s.packing.planes * s.packing.texels();
  if (texel >= s.frames * texels) return;
  const int64_t frame = texel / texels, within = texel % texels;
  const int channel = static_cast<int>(at % kAddGroups) * kAddGroup;
  constexpr int kWidth = kAddGroup * kAddGroups;
  EightFloats sum =
      load_eight(static_cast<const Planes*>(s.planes) + frame * s.batch_stride + within * kWidth + channel);
  const int area = s.packing.size * s.packing.size;
  const Delta* delta = static_cast<const Delta*>(s.delta) + frame * s.delta_batch_stride + channel;
  s.packing.gather(within, [&](int64_t source) {
    const int plane = static_cast<int>(source) / area, place = static_cast<int>(source) % area;
    const EightFloats found = load_eight(delta + plane * s.delta_plane_stride + int64_t(place) * kWidth);
    for (int c = 0; c < kAddGroup; ++c) sum.at[c] += found.at[c];
  });
  store_eight(static_cast<Planes*>(s.to) + texel * kWidth + channel, sum);
}

}  // namespace talk3d
