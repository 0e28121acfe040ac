// The CUDA kernels of render_rays, run thread by thread on the CPU. Plain C functions, which the tests call with ctypes.
#include "cuda/volume_forward.h"
#include "cuda/volume_half.h"

namespace talk3d {
namespace {

struct Sizes {
  int64_t cameras, rays;
  int32_t sets, size, planes;
  float scale;
  int32_t coarse, fine, disparity, white_back, clamp_depth;
  float min_weight;
};

template <class Field>
void render(const Sizes& s,
            const char* texels,
            const float* decoder,
            const Rays& rays,
            const Image& image) {
  RenderArguments arguments{};
  arguments.texels.data = texels;
  arguments.texels.size = s.size;
  arguments.texels.scale = s.scale;
  arguments.texels.prepare();
  const int64_t set = int64_t(s.planes) * arguments.texels.pitch * arguments.texels.pitch * Field::kTexelBytes;
  arguments.texels.batch_stride = s.sets == 1 ? 0 : set;
  arguments.decoder = decoder;
  arguments.rays = rays;
  arguments.march = {s.coarse, s.fine, s.disparity != 0, s.white_back != 0, s.clamp_depth != 0, s.min_weight};
  arguments.dealing = Dealing::of(s.rays);
  arguments.image = image;
  std::vector<Quad> memory(RenderShared<Field>::bytes(arguments.march) / sizeof(Quad) + 1);
  for (int64_t block = 0; block < s.cameras * arguments.dealing.tiles; ++block) {
    std::memset(memory.data(), 0xff, memory.size() * sizeof(Quad));  // not a number
    auto& shared = *reinterpret_cast<RenderShared<Field>*>(memory.data());
    EmulatedBlock(kThreadsPerBlock, [&](int thread) {
      Renderer<Field>(arguments, shared, block, thread).run();
    }).run();
  }
}

}  // namespace
}  // namespace talk3d

using namespace talk3d;

extern "C" {

// texels [planes, size, size, channels] of one set, to [packed planes, size + 2, size + 2, channels]; returns how many
// packed planes there are, and writes nothing where `to` is null
int pack_planes(const int64_t* pairs, int planes, int size, int channels, const float* from, float* to) {
  const Packing packing(std::vector<int64_t>(pairs, pairs + 2 * planes), size);
  for (int64_t texel = 0; to && texel < packing.planes * packing.texels(); ++texel) {
    for (int c = 0; c < channels; ++c) {
      float sum = 0.0f;
      packing.gather(texel, [&](int64_t source) { sum += from[source * channels + c]; });
      to[texel * channels + c] = sum;
    }
  }
  return packing.planes;
}

// The rays of the camera in the order in which warps take them; -1 where a place stays empty.
void deal(int64_t rays, int64_t* order) {
  const Dealing dealing = Dealing::of(rays);
  for (int64_t place = 0; place < dealing.tiles * kRaysPerBlock; ++place) {
    const int slot = static_cast<int>(place % kRaysPerBlock);
    const int64_t ray = dealing.ray(place / kRaysPerBlock, slot / kRaysPerWarp, slot % kRaysPerWarp);
    order[place] = ray < rays ? ray : -1;
  }
}

void render_rays(
    const Sizes* sizes, const char* texels, const float* decoder, const Rays* rays, const Image* image) {
  sizes->planes == 3 ? render<HalfField<3>>(*sizes, texels, decoder, *rays, *image)
                     : render<HalfField<2>>(*sizes, texels, decoder, *rays, *image);
}

}  // extern "C"
