// The CUDA kernels of sample_triplane, run thread by thread on the CPU.
#include "cuda/triplane.h"

using namespace talk3d;

namespace {

struct Shape {
  const int64_t* sizes;
  int64_t size(int dimension) const { return sizes[dimension]; }
};

// body(turn) for each thread of each block, dealt as in csrc/cuda/triplane.cu
template <class Body>
void for_all_threads(const Sampling& s, int wide, Body body) {
  const int across = threads_of_point(s, wide), points_of_block = kSampleThreads / across;
  for (int64_t block = 0; block * points_of_block < s.points; ++block) {
    EmulatedBlock(kSampleThreads, [&](int thread) {
      body(Turn{block * points_of_block + thread / across, thread % across, across});
    }).run();
  }
}

}  // namespace

extern "C" {

// shapes: of the planes [1 or B, P, H, W, C], then of the points [B, M, 3]; wide: channels that a thread takes at once,
// 1 or 4
void sample_triplane(const int64_t* shapes,
                     const int64_t* pairs,
                     double scale,
                     int mean,
                     int wide,
                     const float* planes,
                     const float* points,
                     float* features) {
  const Sampling s =
      sampling_of(Shape{shapes}, Shape{shapes + 5}, std::vector<int64_t>(pairs, pairs + 2 * shapes[1]), scale, mean);
  for_all_threads(s, wide, [&](const Turn& turn) {
    wide == 4 ? sample_point<4>(s, turn, planes, points, features) : sample_point<1>(s, turn, planes, points, features);
  });
}

// d_planes: zeros, or null; d_points: or null
void sample_triplane_backward(const int64_t* shapes,
                              const int64_t* pairs,
                              double scale,
                              int mean,
                              int wide,
                              const float* d_features,
                              const float* planes,
                              const float* points,
                              float* d_planes,
                              float* d_points) {
  const Sampling s =
      sampling_of(Shape{shapes}, Shape{shapes + 5}, std::vector<int64_t>(pairs, pairs + 2 * shapes[1]), scale, mean);
  for_all_threads(s, wide, [&](const Turn& turn) {
    wide == 4 ? differentiate_point<4>(s, turn, d_features, planes, points, d_planes, d_points)
              : differentiate_point<1>(s, turn, d_features, planes, points, d_planes, d_points);
  });
}

}  // extern "C"
