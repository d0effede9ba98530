// Attention of new tokens over the pages of their sequence, in float32, whatever the cache is kept in.
#pragma once
#include <algorithm>
#include <vector>
#include "model.hpp"

namespace kaiyuan {

// Where the keys (or values) of one head begin, and how far one token's are from the next's.
struct Head {
  const Store& store;
  Format format;
  int kv_heads, head, size;
  size_t place(int slot) const { return (size_t(slot) * kv_heads + head) * size; }
  void read(float* to, int slot) const {
    const float scale = format == INT8 ? float(store.scale[size_t(slot) * kv_heads + head]) : 1.0f;
    widen(to, store.data + place(slot) * width(format), format, size, scale);
  }
  void fetch(int slot) const {
    const uint8_t* from = store.data + place(slot) * width(format);
    for (int line = 0; line < size * width(format); line += 64) __builtin_prefetch(from + line);
  }
  void write(int slot, const float* x) const {
    uint8_t* to = store.data + place(slot) * width(format);
    if (format == FLOAT32) std::memcpy(to, x, size_t(size) * 4);
    else if (format == BFLOAT16) for (int i = 0; i < size; i++) reinterpret_cast<uint16_t*>(to)[i] = to_bfloat(x[i]);
    else if (format == FLOAT16) for (int i = 0; i < size; i++) reinterpret_cast<_Float16*>(to)[i] = _Float16(x[i]);
    else if (format == FP8) for (int i = 0; i < size; i++) to[i] = to_fp8(x[i]);
    else {
      float most = 0;
      for (int i = 0; i < size; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
      const _Float16 scale = _Float16(most / 127 > 6.103515625e-5f ? most / 127 : 6.103515625e-5f);
      store.scale[size_t(slot) * kv_heads + head] = scale;
      for (int i = 0; i < size; i++) {
        const float code = std::nearbyint(x[i] / float(scale));
        reinterpret_cast<int8_t*>(to)[i] = int8_t(code > 127 ? 127 : code < -127 ? -127 : code);
      }
    }
  }
};

// Softmax over keys that come in blocks of 32: the largest score so far, the sum of weights, the weighted values.
struct Running {
  float most, total;
};

// `rows` queries (rows, padded) of one head group look at the first `visible[row]` tokens: out (rows, padded).
// `padded` is head_dim up to whole vectors; what lies beyond head_dim in queries must be zero.
inline void attend(const float* queries, int rows, int padded, const int* visible, const int32_t* pages,
                   const Head& keys, const Head& values, std::vector<float>& room, float* out) {
  constexpr int BLOCK = 32, AHEAD = 16;
  room.resize(size_t(2 * BLOCK) * padded);
  if (padded > keys.size) std::fill(room.begin(), room.end(), 0.0f);
  float *k = room.data(), *v = k + BLOCK * padded;
  std::vector<Running> state(rows, Running{-INFINITY, 0.0f});
  std::memset(out, 0, size_t(rows) * padded * 4);
  int longest = 0;
  for (int r = 0; r < rows; r++) longest = visible[r] > longest ? visible[r] : longest;
  for (int first = 0; first < longest; first += BLOCK) {
    const int count = longest - first < BLOCK ? longest - first : BLOCK;
    for (int j = 0; j < count; j++) {
      const int place = first + j, slot = slot_of(pages, place);
      if (place + AHEAD < longest) {
        const int later = slot_of(pages, place + AHEAD);
        keys.fetch(later), values.fetch(later);
      }
      keys.read(k + j * padded, slot);
      values.read(v + j * padded, slot);
    }
    for (int r = 0; r < rows; r++) {
      const int seen = visible[r] - first < count ? visible[r] - first : count;
      if (seen <= 0) continue;
      alignas(64) float scores[BLOCK + 4];
      const float* q = queries + r * padded;
      float most = state[r].most;
      for (int j = 0; j < seen; j += 4) {  // those after the last are thrown away
        Vector dots[4];
        for (int t = 0; t < 4; t++) {
          const float* key = k + size_t(j + t) * padded;
          dots[t] = load(q) * load(key);
          for (int i = LANES; i < padded; i += LANES) dots[t] += load(q + i) * load(key + i);
        }
        sums(dots, scores + j);
      }
      for (int j = seen; j < BLOCK; j++) scores[j] = -INFINITY;
      most = std::max({most, largest(load(scores)), largest(load(scores + LANES))});
      Vector weights = splat(0.0f);
      for (int j = 0; j < BLOCK; j += LANES) {
        const Vector shifted = load(scores + j) - most;
        const Vector weight = shifted > splat(-87.0f) ? exp(shifted) : splat(0.0f);
        store(scores + j, weight);
        weights += weight;
      }
      const float keep = state[r].total == 0 ? 0.0f : std::exp(state[r].most - most);
      state[r] = {most, state[r].total * keep + sum(weights)};
      float* o = out + r * padded;
      for (int i = 0; i < padded; i += LANES) {
        Vector total = load(o + i) * keep;
        for (int j = 0; j < seen; j++) total += load(v + j * padded + i) * scores[j];
        store(o + i, total);
      }
    }
  }
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < padded; i += LANES) store(out + r * padded + i, load(out + r * padded + i) / state[r].total);
}

}  // namespace kaiyuan
