// A block of threads on the CPU, for the tests: csrc/cuda/simt.h without a GPU. Every thread is a fiber with a stack of
// its own; a fiber runs until its warp or its block has to meet, and then the next one does.
#pragma once

#include <ucontext.h>

#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define TALK3D_DEVICE inline

namespace talk3d {

struct alignas(16) Quad {
  uint32_t x, y, z, w;
};
struct alignas(16) Floats4 {
  float x, y, z, w;
};

class EmulatedBlock {
 public:
  static EmulatedBlock* current;

  EmulatedBlock(int threads, std::function<void(int)> body)
      : body_(std::move(body)), fibers_(threads), at_warp_(threads / 32), slots_(2 * threads) {}

  void run() {
    current = this;
    for (int thread = 0; thread < int(fibers_.size()); ++thread) {
      Fiber& fiber = fibers_[thread];
      if (int(stacks.size()) == thread) stacks.push_back(std::make_unique_for_overwrite<char[]>(kStack));
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks[thread].get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &main_;
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&EmulatedBlock::start), 1, thread);
    }
    for (bool running = true; running;) {
      running = false;
      bool moved = false;
      for (thread_ = 0; thread_ < int(fibers_.size()); ++thread_) {
        Fiber& fiber = fibers_[thread_];
        if (fiber.done) continue;
        running = true;
        if (fiber.waits_for && *fiber.waits_for == fiber.meeting) continue;
        moved = true;
        swapcontext(&main_, &fiber.context);
      }
      if (running && !moved) throw std::logic_error("threads wait for one another");
    }
  }

  int lane() const { return thread_ % 32; }
  void meet_warp() { meet(at_warp_[thread_ / 32], 32); }
  void meet_block() { meet(at_block_, int(fibers_.size())); }

  // What each thread of the warp gives, by number of the lane. It may be read until the exchange after the next one:
  // two rows of slots take turns.
  const char* exchange(const void* value, size_t bytes) {
    const int row = fibers_[thread_].exchanges++ % 2 * int(fibers_.size());
    std::memcpy(slots_[row + thread_].bytes, value, bytes);
    meet_warp();
    return slots_[row + thread_ / 32 * 32].bytes;
  }
  static constexpr size_t kSlot = 64;

 private:
  struct Meeting {
    int arrived = 0, number = 0;
  };
  struct Fiber {
    ucontext_t context;
    const int* waits_for = nullptr;
    int meeting = 0;
    unsigned exchanges = 0;
    bool done = false;
  };
  struct alignas(16) Slot {
    char bytes[kSlot];
  };
  static constexpr size_t kStack = 1 << 17;
  static std::vector<std::unique_ptr<char[]>> stacks;  // of one block after the other

  static void start(int thread) {
    current->body_(thread);
    current->fibers_[thread].done = true;
  }
  void meet(Meeting& meeting, int expected) {
    if (++meeting.arrived == expected) {
      meeting.arrived = 0;
      ++meeting.number;
      return;
    }
    Fiber& fiber = fibers_[thread_];
    fiber.meeting = meeting.number;
    fiber.waits_for = &meeting.number;
    swapcontext(&fiber.context, &main_);
    fiber.waits_for = nullptr;
  }

  std::function<void(int)> body_;
  std::vector<Fiber> fibers_;
  std::vector<Meeting> at_warp_;
  Meeting at_block_;
  std::vector<Slot> slots_;
  ucontext_t main_;
  int thread_ = 0;
};
inline EmulatedBlock* EmulatedBlock::current = nullptr;
inline std::vector<std::unique_ptr<char[]>> EmulatedBlock::stacks;

inline void sync_warp() { EmulatedBlock::current->meet_warp(); }
inline void sync_block() { EmulatedBlock::current->meet_block(); }

template <class T>
T shuffle(T value, int from) {
  EmulatedBlock& block = *EmulatedBlock::current;
  const char* all = block.exchange(&value, sizeof value);
  T found;
  std::memcpy(&found, all + from % 32 * EmulatedBlock::kSlot, sizeof found);
  return found;
}
template <class T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, EmulatedBlock::current->lane() ^ mask);
}
inline bool any(bool value) {
  EmulatedBlock& block = *EmulatedBlock::current;
  const char* all = block.exchange(&value, sizeof value);
  bool found = false;
  for (int lane = 0; lane < 32; ++lane) found |= all[lane * EmulatedBlock::kSlot] != 0;
  return found;
}
inline uint32_t max_of_warp(uint32_t value) {
  EmulatedBlock& block = *EmulatedBlock::current;
  const char* all = block.exchange(&value, sizeof value);
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t other;
    std::memcpy(&other, all + lane * EmulatedBlock::kSlot, sizeof other);
    value = value < other ? other : value;
  }
  return value;
}
inline uint32_t min_of_warp(uint32_t value) { return ~max_of_warp(~value); }

template <class T>
T* whole(T* pointer) {
  return pointer;
}
inline Quad load_quad(const Quad* from) { return *from; }
inline Floats4 load_floats(const float* from) { return {from[0], from[1], from[2], from[3]}; }

inline int64_t additions = 0;  // to memory, each of 16 bytes
inline void add_atomically(float* to, Floats4 value) {
  ++additions;
  to[0] += value.x;
  to[1] += value.y;
  to[2] += value.z;
  to[3] += value.w;
}

inline void add_atomically(float* to, float value) { *to += value; }
inline void add_atomically(long long* to, long long value) { *to += value; }
inline void max_atomically(uint32_t* to, uint32_t value) { *to = *to < value ? value : *to; }
inline long long nearest(float x) { return std::llrint(x); }

inline Pair transpose(Pair a) {
  EmulatedBlock& block = *EmulatedBlock::current;
  const char* all = block.exchange(&a, sizeof a);
  const int row = block.lane() / 4, column = block.lane() % 4 * 2;
  uint16_t numbers[2];
  for (int k = 0; k < 2; ++k)  // row `column + k` of the matrix, of it the column `row`
    std::memcpy(&numbers[k], all + ((column + k) * 4 + row / 2) * EmulatedBlock::kSlot + row % 2 * 2, 2);
  Pair found;
  std::memcpy(&found, numbers, sizeof found);
  return found;
}

inline uint32_t bits_of(float a) {
  uint32_t bits;
  std::memcpy(&bits, &a, 4);
  return bits;
}
inline float float_of(uint32_t a) {
  float found;
  std::memcpy(&found, &a, 4);
  return found;
}

// The special function unit may be off by as much as its manual says, upwards or downwards as a hash of the operand has
// it. Exact where the result is: at 0 and 1, and at infinity.
inline double deviation(float x, double largest) { return bits_of(x) * 0x9e3779b9u >> 31 ? largest : -largest; }
inline float exp2_fast(float x) {
  const double found = std::exp2(double(x));
  return x == 0.0f || found < 1.2e-38 ? float(found < 1.2e-38 ? 0.0 : 1.0) : float(found * (1 + deviation(x, 0x1p-22)));
}
inline float log2_fast(float x) {
  return x == 1.0f ? 0.0f : static_cast<float>(std::log2(double(x)) + deviation(x, 0x1p-22));
}
inline float tanh_fast(float x) { return static_cast<float>(std::tanh(double(x)) * (1 + deviation(x, 0x1p-11))); }
inline float reciprocal_fast(float x) { return static_cast<float>(1 / double(x) * (1 + deviation(x, 0x1p-23))); }
inline float fma_saturated(float a, float b, float c) {
  const float found = std::fma(a, b, c);
  return found > 0.0f ? (found < 1.0f ? found : 1.0f) : 0.0f;
}
inline float fma_down(float a, float b, float c) {
  const int mode = std::fegetround();
  std::fesetround(FE_DOWNWARD);
  const volatile float x = a, y = b, z = c;
  const volatile float found = std::fma(x, y, z);
  std::fesetround(mode);
  return found;
}
// A sum of tensor cores: they cut off what a float has no room for.
inline float toward_zero(double x) {
  const float found = static_cast<float>(x);
  return std::fabs(double(found)) > std::fabs(x) && std::isfinite(x) ? std::nextafter(found, 0.0f) : found;
}

// The fragments are laid out as NVIDIA's PTX manual says for mma.m16n8k16.
inline Floats4 mma(Pair a0, Pair a1, Pair a2, Pair a3, uint32_t b0, uint32_t b1, Floats4 c) {
  const uint32_t mine[6] = {a0.bits, a1.bits, a2.bits, a3.bits, b0, b1};
  EmulatedBlock& block = *EmulatedBlock::current;
  const char* all = block.exchange(mine, sizeof mine);
  const auto word = [&](int lane, int k) {
    Pair pair;
    std::memcpy(&pair.bits, all + lane * EmulatedBlock::kSlot + 4 * k, 4);
    return pair;
  };
  const auto half = [](Pair pair, int k) { return k ? high(pair) : low(pair); };
  const auto left = [&](int row, int k) { return half(word(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2), k % 2); };
  const auto right = [&](int k, int column) { return half(word(column * 4 + k % 8 / 2, 4 + k / 8), k % 2); };
  const int row = block.lane() / 4, column = block.lane() % 4 * 2;
  float* sums[2][2] = {{&c.x, &c.y}, {&c.z, &c.w}};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      double sum = *sums[i][j];
      for (int k = 0; k < 16; ++k) sum += double(left(row + 8 * i, k)) * right(k, column + j);
      *sums[i][j] = toward_zero(sum);
    }
  }
  return c;
}

}  // namespace talk3d
