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

extern "C" void render_rays(const talk3d::Sizes* sizes,
                            const char* texels,
                            const float* decoder,
                            const talk3d::Rays* rays,
                            const talk3d::Image* image) {
  using namespace talk3d;
  sizes->planes == 3 ? render<HalfField<3>>(*sizes, texels, decoder, *rays, *image)
                     : render<HalfField<2>>(*sizes, texels, decoder, *rays, *image);
}
