// Rows of numbers in float32 or bfloat16, computed on as floats, a vector at a time; work shared out among PyTorch's threads.
#pragma once
#include <algorithm>
#include <atomic>
#include "vectors.hpp"

namespace kaiyuan {

typedef uint16_t Bfloat;

inline Vector get(const float* from) { return load(from); }
inline Vector get(const Bfloat* from) { return load_bfloat(from); }
inline void put(float* to, Vector value) { store(to, value); }
inline void put(Bfloat* to, Vector value) { store_bfloat(to, value); }
inline float one(const float* from) { return *from; }
inline float one(const Bfloat* from) { return from_bfloat(*from); }

// The first `count` of a vector's numbers; `rest` in place of the others.
template <typename T>
inline Vector get(const T* from, long count, float rest = 0.0f) {
  if (count >= LANES) return get(from);
  Vector found = splat(rest);
  for (long i = 0; i < count; i++) found[i] = one(from + i);
  return found;
}
template <typename T>
inline void put(T* to, Vector value, long count) {
  if (count >= LANES) return put(to, value);
  T room[LANES];
  put(room, value);
  std::memcpy(to, room, count * sizeof(T));
}

// libgomp's entry to the threads that PyTorch uses too: threads of our own would wait for cores that those keep busy.
typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
inline Parallel parallel = nullptr;

// Calls `work(piece)` for pieces 0 .. count - 1, each by one thread. Pieces, not threads, decide what is added to what.
template <typename Work>
void share(long count, int threads, Work work) {
  std::atomic<long> next{0};
  auto run = [&] {
    for (long piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(piece);
  };
  if (!parallel || threads < 2 || count < 2) return run();
  parallel([](void* self) { (*static_cast<decltype(run)*>(self))(); }, &run, threads, 0);
}

// The same for `rows` of `size` numbers, some rows a piece: `work(first, end)`.
template <typename Work>
void share_rows(long rows, long size, int threads, Work work) {
  const long some = std::max(1L, 8192 / std::max(size, 1L));
  share((rows + some - 1) / some, threads, [&](long piece) {
    work(piece * some, std::min(rows, (piece + 1) * some));
  });
}

}  // namespace kaiyuan
