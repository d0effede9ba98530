// Attention of a few new tokens over keys and values in bfloat16, multiplied as they lie in the cache.
#pragma once
#include "attention.hpp"

namespace kaiyuan {

#if defined(__AVX512BF16__)
inline bool knows_narrow(const Head& head) { return head.format == BFLOAT16 && head.size <= 128; }

// One thread's, for heads of PARTS times 32 numbers, of which FULL says whether they fill the last; its rooms are kept from
// call to call. Products are of pairs: of neighbouring numbers of a key, and of two neighbouring tokens' values, whose
// interleaving leaves the answer's numbers in an order of their own until the end.
template <int PARTS, bool FULL>
class NarrowHeads {
  static constexpr int BLOCK = PAGE, MOST = 16, WIDE = PARTS * 32;
  alignas(64) uint16_t queries_[MOST][WIDE];
  alignas(64) float wide_[MOST][WIDE];
  alignas(64) uint16_t weights_[MOST][BLOCK];
  Running state_[MOST];
  float keep_[MOST];

  static __m512bh part_of(const uint16_t* numbers, int part, __mmask32 last) {
    if (FULL || part < PARTS - 1) return (__m512bh)_mm512_loadu_si512(numbers + part * 32);
    return (__m512bh)_mm512_maskz_loadu_epi16(last, numbers + part * 32);
  }

 public:
  // As `attend`, for at most 16 queries.
  void operator()(const float* queries, int rows, int padded, const int* visible, const int32_t* pages, const Head& keys,
                  const Head& values, float* out) {
    const __mmask32 last = keys.size % 32 ? (__mmask32(1) << keys.size % 32) - 1 : __mmask32(-1);
    std::memset(queries_, 0, sizeof(queries_));
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < keys.size; i++) queries_[r][i] = to_bfloat(queries[r * padded + i]);
    std::memset(wide_, 0, sizeof(wide_));
    for (int r = 0; r < rows; r++) state_[r] = {-INFINITY, 0.0f};
    const int longest = *std::max_element(visible, visible + rows), apart = keys.kv_heads * keys.size;
    for (int first = 0; first < longest; first += BLOCK) {
      const int count = std::min(BLOCK, longest - first);
      const size_t place = keys.place(pages[first / PAGE] * PAGE);
      const uint16_t* k = reinterpret_cast<const uint16_t*>(keys.store.data) + place;
      const uint16_t* v = reinterpret_cast<const uint16_t*>(values.store.data) + place;
      if (first + BLOCK < longest) fetch(keys, values, pages[first / PAGE + 1] * PAGE);
      for (int r = 0; r < rows; r++) score(r, k, apart, std::min(count, visible[r] - first), last);
      int r = 0;
      for (; rows - r >= 4; r += 4) gather<4>(r, v, apart, count, last);
      for (; rows - r >= 2; r += 2) gather<2>(r, v, apart, count, last);
      if (r < rows) gather<1>(r, v, apart, count, last);
    }
    finish(rows, keys.size, padded, out);
  }

 private:
  static void fetch(const Head& keys, const Head& values, int slot) {
    for (int j = 0; j < BLOCK; j++) keys.fetch(slot + j), values.fetch(slot + j);
  }

  void score(int r, const uint16_t* k, int apart, int seen, __mmask32 last) {
    alignas(64) float s[BLOCK];
    __m512bh q[PARTS];
    for (int part = 0; part < PARTS; part++) q[part] = (__m512bh)_mm512_load_si512(queries_[r] + part * 32);
    for (int j = 0; j < seen; j += 4) {
      Vector dots[4];
#pragma GCC unroll 4
      for (int t = 0; t < 4; t++) {
        const uint16_t* key = k + size_t(j + t < seen ? j + t : seen - 1) * apart;
        __m512 dot = _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) dot = _mm512_dpbf16_ps(dot, part_of(key, part, last), q[part]);
        dots[t] = (Vector)dot;
      }
      sums(dots, s + j);
    }
    for (int j = std::max(seen, 0); j < BLOCK; j++) s[j] = -INFINITY;
    Running& now = state_[r];
    const float most = std::max(now.most, largest(larger(load(s), load(s + LANES))));
    keep_[r] = now.most == most ? 1.0f : now.total == 0 ? 0.0f : std::exp(now.most - most);
    Vector weights[2];
    for (int half = 0; half < 2; half++) {
      const Vector shifted = load(s + half * LANES) - (most == -INFINITY ? 0.0f : most);
      weights[half] = shifted > splat(-87.0f) ? exp(shifted) : splat(0.0f);
    }
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)weights[1], (__m512)weights[0]);
    std::memcpy(weights_[r], &both, 64);
    now = {most, now.total * keep_[r] + sum(weights[0] + weights[1])};
  }

  // Weighted values of `count` tokens for queries first, first + 1, ...; a last one without a neighbour has itself, with
  // weight 0.
  template <int ROWS>
  void gather(int first, const uint16_t* v, int apart, int count, __mmask32 last) {
    for (int part = 0; part < PARTS; part++) {
      Vector low[ROWS], high[ROWS];
      for (int r = 0; r < ROWS; r++) {
        low[r] = load(wide_[first + r] + part * 32) * keep_[first + r];
        high[r] = load(wide_[first + r] + part * 32 + LANES) * keep_[first + r];
      }
      for (int j = 0; j < count; j += 2) {
        const uint16_t *one = v + size_t(j) * apart, *two = j + 1 < count ? one + apart : one;
        const __m512i a = (__m512i)part_of(one, part, last), b = (__m512i)part_of(two, part, last);
        const __m512bh front = (__m512bh)_mm512_unpacklo_epi16(a, b), back = (__m512bh)_mm512_unpackhi_epi16(a, b);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
          int32_t pair;
          std::memcpy(&pair, &weights_[first + r][j], 4);
          const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
          low[r] = (Vector)_mm512_dpbf16_ps((__m512)low[r], front, weight);
          high[r] = (Vector)_mm512_dpbf16_ps((__m512)high[r], back, weight);
        }
      }
      for (int r = 0; r < ROWS; r++)
        store(wide_[first + r] + part * 32, low[r]), store(wide_[first + r] + part * 32 + LANES, high[r]);
    }
  }

  // The lower halves of eight neighbouring numbers lie in one vector, the upper ones in the other.
  void finish(int rows, int size, int padded, float* out) const {
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < size; i++) {
        const int inner = i % 32, place = inner / 8 * 4 + inner % 4 + (inner % 8 >= 4 ? LANES : 0);
        out[r * padded + i] = wide_[r][i / 32 * 32 + place] / state_[r].total;
      }
  }
};

struct NarrowAttention {
  void operator()(const float* queries, int rows, int padded, const int* visible, const int32_t* pages, const Head& keys,
                  const Head& values, float* out) {
    const int parts = (keys.size + 31) / 32;
    const bool full = keys.size % 32 == 0;
    const auto by = [&](auto& known) { known(queries, rows, padded, visible, pages, keys, values, out); };
    if (parts == 1) full ? by(heads<1, true>()) : by(heads<1, false>());
    else if (parts == 2) full ? by(heads<2, true>()) : by(heads<2, false>());
    else if (parts == 3) full ? by(heads<3, true>()) : by(heads<3, false>());
    else full ? by(heads<4, true>()) : by(heads<4, false>());
  }

 private:
  template <int PARTS, bool FULL>
  static NarrowHeads<PARTS, FULL>& heads() {
    static thread_local NarrowHeads<PARTS, FULL> known;
    return known;
  }
};

#else
inline bool knows_narrow(const Head&) { return false; }
struct NarrowAttention {
  void operator()(const float*, int, int, const int*, const int32_t*, const Head&, const Head&, float*) {}
};
#endif

}  // namespace kaiyuan
