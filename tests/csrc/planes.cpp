// The CUDA kernel of add_planes, run thread by thread on the CPU.
#include "cuda/planes.h"

using namespace talk3d;

namespace {

template <class Planes>
void add(const AddArguments& arguments, int type) {
  const int64_t threads = arguments.frames * arguments.packing.planes * arguments.packing.texels() * kAddGroups;
  for (int64_t block = 0; block * kAddThreads < threads; ++block) {
    EmulatedBlock(kAddThreads, [&](int thread) {
      type == 0   ? add_texel<Planes, float>(arguments, block, thread)
      : type == 1 ? add_texel<Planes, Half>(arguments, block, thread)
                  : add_texel<Planes, Bf16>(arguments, block, thread);
    }).run();
  }
}

}  // namespace

// sizes: planes of delta, size, frames, batch stride of the planes, those of batch and planes of delta, in numbers;
// types: of planes and delta: 0 is float32, 1 float16, 2 bfloat16
extern "C" void add_planes(
    const int64_t* pairs, const int64_t* sizes, const int* types, const void* planes, const void* delta, void* to) {
  AddArguments arguments{Packing(std::vector<int64_t>(pairs, pairs + 2 * sizes[0]), static_cast<int>(sizes[1])),
                         sizes[2],
                         planes,
                         sizes[3],
                         delta,
                         sizes[4],
                         sizes[5],
                         to};
  types[0] == 0 ? add<float>(arguments, types[1]) : add<Half>(arguments, types[1]);
}
