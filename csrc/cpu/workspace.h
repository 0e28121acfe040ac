// Scratch memory of one task, taken in aligned pieces.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <initializer_list>
#include <new>

namespace talk3d {
namespace {

constexpr int kPadding = 16;  // floats of the widest vector: a row may be read and written that far beyond its end

inline int pad(int count) { return (count + 2 * kPadding - 1) / kPadding * kPadding; }

// Pieces are zeroed, since padding takes part in arithmetic, and freed together.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    while (last_) {
      Piece* previous = last_->previous;
      std::free(last_);
      last_ = previous;
    }
  }

  template <class T>
  T* take(size_t count) {
    const size_t bytes = (sizeof(Piece) + count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    auto* piece = static_cast<Piece*>(std::aligned_alloc(kAlignment, bytes));
    if (!piece) throw std::bad_alloc();
    std::memset(piece, 0, bytes);
    piece->previous = last_;
    last_ = piece;
    return reinterpret_cast<T*>(piece + 1);
  }

 private:
  static constexpr size_t kAlignment = 64;  // a cache line
  struct alignas(kAlignment) Piece {
    Piece* previous;
  };
  Piece* last_ = nullptr;
};

}  // namespace
}  // namespace talk3d
