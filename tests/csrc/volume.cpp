// The CUDA kernels of render_rays, run thread by thread on the CPU. Plain C functions, which the tests call with
// ctypes.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "cuda/volume_backward.h"
#include "cuda/volume_forward.h"

namespace talk3d {
namespace {

struct Sizes {
  int64_t cameras, rays;
  int32_t sets, size, planes;
  float scale;
  int32_t coarse, fine, disparity, white_back, clamp_depth;
  float min_weight;
  int32_t floats;     // texels are of float32, not of float16
  int32_t backwards;  // the last block comes first
};

March march_of(const Sizes& s) {
  return {s.coarse, s.fine, s.disparity != 0, s.white_back != 0, s.clamp_depth != 0, s.min_weight};
}

template <class Field>
Texels texels_of(const Sizes& s, const char* data) {
  Texels texels{};
  texels.data = data;
  texels.size = s.size;
  texels.scale = s.scale;
  texels.prepare();
  texels.batch_stride = s.sets == 1 ? 0 : int64_t(s.planes) * texels.pitch * texels.pitch * Field::kTexelBytes;
  return texels;
}

template <class Field>
void render(const Sizes& s, const char* texels, const float* decoder, const Rays& rays, const Image& image) {
  RenderArguments arguments{};
  arguments.texels = texels_of<Field>(s, texels);
  arguments.decoder = decoder;
  arguments.rays = rays;
  arguments.march = march_of(s);
  arguments.dealing = Dealing::of(s.rays);
  arguments.image = image;
  std::vector<Quad> memory(RenderShared<Field>::bytes(arguments.march) / sizeof(Quad) + 1);
  for (int64_t block = 0; block < s.cameras * arguments.dealing.tiles; ++block) {
    std::memset(memory.data(), 0xff, memory.size() * sizeof(Quad));  // not a number
    auto& shared = *reinterpret_cast<RenderShared<Field>*>(memory.data());
    EmulatedBlock(kThreadsPerBlock, [&](int thread) { Renderer<Field>(arguments, shared, block, thread).run(); }).run();
  }
}

// What is to be found; null where it is not wanted.
struct Gradients {
  float* texels;     // zeros, laid out as the texels
  long long* fixed;  // zeros, likewise: instead, in fixed point, and then to `texels`
  float* decoder;    // [kDecoderSize]
  float* rays;       // [B * R, 8]
};

template <class Field, Wanted kWanted>
void differentiate(const Sizes& s,
                   const char* texels,
                   const float* decoder,
                   const float* rays,
                   const Cotangents& from,
                   const Gradients& to) {
  GradientArguments arguments{};
  arguments.texels = texels_of<Field>(s, texels);
  arguments.decoder = decoder;
  arguments.rays = rays;
  arguments.march = march_of(s);
  arguments.dealing = Dealing::of(s.rays);
  arguments.from = from;
  arguments.texel_gradients = to.fixed ? nullptr : to.texels;
  arguments.gradient_batch_stride = arguments.texels.batch_stride / Field::kTexelBytes * kChannels;
  const int64_t blocks = s.cameras * arguments.dealing.tiles;
  std::vector<float> of_blocks(to.decoder ? blocks * kDecoderSize : 0, NAN);
  arguments.d_decoder = to.decoder ? of_blocks.data() : nullptr;
  arguments.d_rays = to.rays;
  uint32_t largest = 0;
  float amplification = 0.0f;
  for (int channel = 0; channel < kChannels; ++channel)
    amplification = std::max(amplification, amplification_of(decoder, channel));
  arguments.fixed = {to.fixed, &largest, &amplification, FixedPoint::bits_for(s.cameras * s.rays * s.coarse * 3)};
  std::vector<Quad> memory(GradientShared<Field, kWanted>::bytes(s.coarse + s.fine) / sizeof(Quad) + 1);
  const auto run = [&] {
    for (int64_t turn = 0; turn < blocks; ++turn) {
      const int64_t block = s.backwards ? blocks - 1 - turn : turn;
      std::memset(memory.data(), 0xff, memory.size() * sizeof(Quad));  // not a number
      auto& shared = *reinterpret_cast<GradientShared<Field, kWanted>*>(memory.data());
      EmulatedBlock(kThreadsPerBlock, [&](int thread) {
        Differentiator<Field, kWanted>(arguments, shared, block, thread).run();
      }).run();
    }
  };
  if ((arguments.measures = to.fixed)) {
    run();
    arguments.measures = false;
  }
  run();
  if (to.decoder) {
    std::fill_n(to.decoder, kDecoderSize, 0.0f);
    for (size_t at = 0; at < of_blocks.size(); ++at) to.decoder[at % kDecoderSize] += of_blocks[at];
  }
  const int64_t count = to.fixed ? int64_t(s.sets) * s.planes * (s.size + 2) * (s.size + 2) * kChannels : 0;
  for (int64_t at = 0; at < count; ++at) to.texels[at] = arguments.fixed.value(to.fixed[at], arguments.fixed.factor());
}

template <class Run>
void with_field(const Sizes& s, Run run) {
  if (s.floats) {
    s.planes == 3 ? run(std::type_identity<FloatField<3>>()) : run(std::type_identity<FloatField<2>>());
  } else {
    s.planes == 3 ? run(std::type_identity<HalfField<3>>()) : run(std::type_identity<HalfField<2>>());
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

// The gradient of one set of packed planes [planes, size + 2, size + 2, channels], to that of the planes as they came
void unpack_gradient(const int64_t* pairs, int planes, int size, int channels, const float* from, float* to) {
  const Packing packing(std::vector<int64_t>(pairs, pairs + 2 * planes), size);
  for (int64_t texel = 0; texel < int64_t(planes) * size * size; ++texel)
    std::copy_n(from + packing.packed_texel(texel) * channels, channels, to + texel * channels);
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

void render_rays(const Sizes* sizes, const char* texels, const float* decoder, const Rays* rays, const Image* image) {
  with_field(*sizes,
             [&](auto field) { render<typename decltype(field)::type>(*sizes, texels, decoder, *rays, *image); });
}

void differentiate(const Sizes* sizes,
                   const char* texels,
                   const float* decoder,
                   const float* rays,
                   const Cotangents* from,
                   const Gradients* to) {
  with_field(*sizes, [&](auto field) {
    using Field = typename decltype(field)::type;
    if (to->fixed) {
      differentiate<Field, Wanted::kAllFixed>(*sizes, texels, decoder, rays, *from, *to);
    } else if (to->decoder || to->rays) {
      differentiate<Field, Wanted::kAll>(*sizes, texels, decoder, rays, *from, *to);
    } else {
      differentiate<Field, Wanted::kPlanes>(*sizes, texels, decoder, rays, *from, *to);
    }
  });
}

// How often a thread added 16 bytes to memory since this was asked last.
int64_t count_additions() { return std::exchange(additions, 0); }

// Shared memory in bytes of a block of the forward, of the backward of planes alone, or of that of all.
int64_t shared_bytes(const Sizes* sizes, int kind) {
  int64_t bytes = 0;
  const int samples = sizes->coarse + sizes->fine;
  with_field(*sizes, [&](auto field) {
    using Field = typename decltype(field)::type;
    bytes = kind == 0   ? RenderShared<Field>::bytes(march_of(*sizes))
            : kind == 1 ? GradientShared<Field, Wanted::kPlanes>::bytes(samples)
                        : GradientShared<Field, Wanted::kAll>::bytes(samples);
  });
  return bytes;
}

}  // extern "C"
