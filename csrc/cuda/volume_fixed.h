// Sums that depend on no order: gradients of texels as whole numbers of 64 bits, in a unit that all of them share. The
// unit is a power of two, chosen so that no sum can overflow: 2^-40 of the largest gradient that a feature can have,
// and not below 2^-100.
#pragma once

#include "cuda/volume_decoder.h"

namespace talk3d {

struct FixedPoint {
  long long* texel_gradients;  // as the texels
  uint32_t* largest;     // bits of the largest gradient of any output of the decoder; above infinity: not a number
  float* amplification;  // how much larger the decoder can make it on the way to the features
  int bits;              // of the largest gradient that a texel can get at a time

  // With so many samples, each of which adds to a texel at most once for each plane that was merged.
  static int bits_for(int64_t samples) {
    int bits = 60;
    while (samples >>= 1) --bits;
    return bits < 40 ? bits : 40;
  }

  // The power of two by which a gradient is multiplied.
  TALK3D_DEVICE float factor() const {
    const float bound = float_of(*largest) * *amplification;
    const int above = static_cast<int>(bits_of(bound) >> 23 & 0xff) - 126;  // bound < 2^above
    int exponent = bits - 1 - above;                                        // a bit for what halves are rounded by
    exponent = exponent < 100 ? exponent : 100;
    return float_of(static_cast<uint32_t>(exponent + 127) << 23);
  }

  // A sum as a float. Where any gradient was infinite or not a number, no sum is one.
  TALK3D_DEVICE float value(long long sum, float factor) const {
    return *largest < 0x7f800000u ? static_cast<float>(sum) * (1.0f / factor) : NAN;
  }
};

// How much larger one feature's gradient can be than the largest of the decoder's outputs, for channel `channel`.
TALK3D_DEVICE float amplification_of(const float* flat, int channel) {
  const FlatDecoder decoder(flat);
  float sum = 0.0f;
  for (int unit = 0; unit < kHidden; ++unit) {
    float of_unit = 0.0f;
    for (int out = 0; out <= kChannels; ++out) of_unit += fabsf(decoder.w1[out * kHidden + unit]);
    sum += of_unit * fabsf(decoder.w0[unit * kChannels + channel]);
  }
  return sum * (1.0f / 3.0f);
}

}  // namespace talk3d
