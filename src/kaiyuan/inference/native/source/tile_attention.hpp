// Attention of many new tokens by the matrix unit, in bfloat16 with float32 sums: what prompts are made of.
#pragma once
#include "attention.hpp"
#include "tiles.hpp"

namespace kaiyuan {

#if defined(KAIYUAN_TILES)

// e^x to one part in 10^4 for x up to 0, which the rounding of weights to bfloat16 hides; nothing below -87.
inline Vector rough_exp(Vector x) {
  const Vector rounder = splat(12582912.0f);
  const Vector y = larger(x * 1.44269504f, splat(-126.0f));
  const Vector n = (y + rounder) - rounder, r = y - n;
  const Vector p = ((0.05550410866f * r + 0.24022650696f) * r + 0.69314718056f) * r + 1.0f;
  const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
  const Vector found = p * reinterpret_cast<Vector>(power);
  return x > splat(-87.0f) ? found : splat(0.0f);
}

// One thread's attention over one sequence by one group of heads; rooms are kept from call to call.
class TileAttention {
  static constexpr int KEYS = 64, ROWS = 32;
  std::vector<uint16_t> queries_, keys_, values_, weights_, line_;
  std::vector<float> scores_, wide_;
  std::vector<Running> state_;
  int deep_ = 0;  // head_dim up to whole tiles

 public:
  // As `attend`, with queries and answers (rows, padded), padded at least head_dim; `visible` must not fall.
  void operator()(const float* queries, int rows, int padded, const int* visible, const int32_t* pages,
                  const Head& keys, const Head& values, float* out) {
    deep_ = round_up(keys.size, 32);
    const int all = round_up(rows, ROWS);
    prepare(queries, rows, all, padded);
    for (int first = 0; first < visible[rows - 1]; first += KEYS) {
      const int count = std::min(KEYS, visible[rows - 1] - first);
      pack(keys, values, pages, first, count);
      for (int group = 0; group < rows; group += ROWS) {
        const int last = std::min(group + ROWS, rows) - 1;
        if (visible[last] <= first) continue;
        score(group);
        weigh(group, last - group + 1, first, visible + group, visible[group] < first + KEYS);
        gather(group);
      }
    }
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < keys.size; i++) out[r * padded + i] = wide_[size_t(r) * deep_ + i] / state_[r].total;
  }

 private:
  void prepare(const float* queries, int rows, int all, int padded) {
    queries_.assign(size_t(all) * deep_, 0);
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < std::min(padded, deep_); i++) queries_[size_t(r) * deep_ + i] = to_bfloat(queries[r * padded + i]);
    wide_.assign(size_t(all) * deep_, 0.0f);
    state_.assign(all, Running{-INFINITY, 0.0f});
    keys_.resize(size_t(KEYS) * deep_), values_.resize(size_t(KEYS) * deep_), line_.resize(size_t(2 * KEYS) * deep_);
    scores_.resize(ROWS * KEYS), weights_.resize(ROWS * KEYS);
  }

  static void narrow(uint16_t* to, const Head& head, int slot, float* room) {
    if (head.format == BFLOAT16) {
      std::memcpy(to, reinterpret_cast<const uint16_t*>(head.store.data) + head.place(slot), size_t(head.size) * 2);
      return;
    }
    head.read(room, slot);
    for (int i = 0; i < head.size; i++) to[i] = to_bfloat(room[i]);
  }

  // Keys as two panels of 32 outputs, values as panels of 32 numbers of the head with keys as inputs.
  void pack(const Head& keys, const Head& values, const int32_t* pages, int first, int count) {
    float* room = scores_.data();  // head_dim is at most 2048
    std::fill(line_.begin(), line_.end(), 0);
    uint16_t *k = line_.data(), *v = k + size_t(KEYS) * deep_;
    if (scores_.size() < size_t(keys.size)) scores_.resize(keys.size), room = scores_.data();
    for (int j = 0; j < count; j++) {
      const int place = first + j, slot = slot_of(pages, place);
      narrow(k + size_t(j) * deep_, keys, slot, room);
      narrow(v + size_t(j) * deep_, values, slot, room);
    }
    const int pairs = deep_ / 2;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(k);
    uint32_t* to = reinterpret_cast<uint32_t*>(keys_.data());
    for (int half = 0; half < 2; half++)
      for (int i = 0; i < pairs; i++)
        for (int j = 0; j < 32; j++) to[(half * pairs + i) * 32 + j] = from[(half * 32 + j) * pairs + i];
    uint32_t* both = reinterpret_cast<uint32_t*>(values_.data());
    for (int panel = 0; panel < deep_ / 32; panel++)
      for (int i = 0; i < KEYS / 2; i++) {
        const uint16_t *a = v + size_t(2 * i) * deep_ + panel * 32, *b = a + deep_;
        for (int j = 0; j < 32; j++) both[(panel * KEYS / 2 + i) * 32 + j] = a[j] | uint32_t(b[j]) << 16;
      }
  }

  void score(int group) {
    set_shapes(16, 16);
    const uint16_t* q = queries_.data() + size_t(group) * deep_;
    for (int half = 0; half < 2; half++) {
      const uint8_t* k = reinterpret_cast<const uint8_t*>(keys_.data()) + size_t(half) * deep_ / 2 * 128;
      _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
      for (int i = 0; i < deep_; i += 32, k += 2048) {
        _tile_loadd(6, k, 128); _tile_loadd(7, k + 64, 128);
        _tile_loadd(4, q + i, deep_ * 2); _tile_loadd(5, q + 16 * deep_ + i, deep_ * 2);
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
      }
      float* s = scores_.data() + half * 32;
      _tile_stored(0, s, KEYS * 4); _tile_stored(1, s + 16, KEYS * 4);
      _tile_stored(2, s + 16 * KEYS, KEYS * 4); _tile_stored(3, s + 16 * KEYS + 16, KEYS * 4);
    }
  }

  void weigh(int group, int rows, int first, const int* visible, bool cut) {
    for (int r = 0; r < rows; r++) {
      float* s = scores_.data() + r * KEYS;
      if (cut) for (int j = std::max(0, visible[r] - first); j < KEYS; j++) s[j] = -INFINITY;
      Vector most = larger(larger(load(s), load(s + 16)), larger(load(s + 32), load(s + 48)));
      Running& now = state_[group + r];
      const float top = std::max(now.most, largest(most));
      uint16_t* w = weights_.data() + r * KEYS;
      if (top == -INFINITY) { std::memset(w, 0, KEYS * 2); continue; }
      Vector total = splat(0.0f);
      for (int j = 0; j < KEYS; j += 32) {
        const Vector a = rough_exp(load(s + j) - top), b = rough_exp(load(s + j + 16) - top);
        total += a + b;
        const __m512bh both = _mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
        _mm512_storeu_si512(w + j, (__m512i)both);
      }
      const float keep = now.total == 0 ? 0.0f : std::exp(now.most - top);
      if (keep != 1.0f) {
        float* o = wide_.data() + size_t(group + r) * deep_;
        for (int i = 0; i < deep_; i += LANES) store(o + i, load(o + i) * keep);
      }
      now = {top, now.total * keep + sum(total)};
    }
  }

  void gather(int group) {
    const size_t stride = size_t(deep_) * 4;
    for (int panel = 0; panel < deep_ / 32; panel++) {
      float* o = wide_.data() + size_t(group) * deep_ + panel * 32;
      const uint8_t* v = reinterpret_cast<const uint8_t*>(values_.data()) + size_t(panel) * KEYS / 2 * 128;
      _tile_loadd(0, o, stride); _tile_loadd(1, o + 16, stride);
      _tile_loadd(2, o + 16 * deep_, stride); _tile_loadd(3, o + 16 * deep_ + 16, stride);
      for (int j = 0; j < KEYS; j += 32, v += 2048) {
        _tile_loadd(6, v, 128); _tile_loadd(7, v + 64, 128);
        _tile_loadd(4, weights_.data() + j, KEYS * 2); _tile_loadd(5, weights_.data() + 16 * KEYS + j, KEYS * 2);
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, o, stride); _tile_stored(1, o + 16, stride);
      _tile_stored(2, o + 16 * deep_, stride); _tile_stored(3, o + 16 * deep_ + 16, stride);
    }
  }
};

#else
struct TileAttention {
  void operator()(const float*, int, int, const int*, const int32_t*, const Head&, const Head&, float*) {}
};
#endif

}  // namespace kaiyuan
