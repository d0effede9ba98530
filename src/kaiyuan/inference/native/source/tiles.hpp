// Products by the matrix unit (AMX): 32 rows of activations, or 16 with both halves of int8, against one panel.
#pragma once
#include <vector>
#include "matrix.hpp"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#define KAIYUAN_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kaiyuan {

#if defined(KAIYUAN_TILES)

// The kernel wants to be asked once a process before tiles may be used.
inline bool has_tiles() {
  static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
  return granted;
}

// Tiles 0 to 3 are sums (upper left, upper right, lower left, lower right), 4 and 5 activations, 6 and 7 weights.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  TileShapes(int upper, int lower) {
    const int tall[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
    for (int tile = 0; tile < 8; tile++) bytes[tile] = 64, rows[tile] = uint8_t(tall[tile] ? tall[tile] : 1);
  }
};

// The shapes stay set between products: setting them costs as much as a small product. Other libraries use tiles too,
// so every step begins with `forget_shapes`.
inline thread_local int shapes_now = -1;
inline void forget_shapes() { shapes_now = -1; }
inline void release_tiles() { _tile_release(), forget_shapes(); }
inline void set_shapes(int upper, int lower) {
  if (shapes_now == upper * 32 + lower) return;
  shapes_now = upper * 32 + lower;
  const TileShapes shapes(upper, lower);
  _tile_loadconfig(&shapes);
}

// Ask memory for what is needed some hundred instructions later: the hardware's own guesses come too late for tiles.
inline void fetch(const uint8_t* panel) {
  for (int line = 0; line < 2048; line += 64)
    _mm_prefetch(reinterpret_cast<const char*>(panel + 4096 + line), _MM_HINT_T0);
}

// `rows` up to 32: out (rows, 32). `cold`: the panel is not in the cache.
inline void tiles_bfloat16(const uint8_t* panel, const Input& input, int rows, bool cold, float* out) {
  const int upper = rows < 16 ? rows : 16, lower = rows - upper;
  const size_t stride = input.bytes();
  const uint8_t *x = input.row(0), *y = input.row(lower ? 16 : 0);
  set_shapes(upper, lower);
  _tile_zero(0); _tile_zero(1);
  if (lower) {
    _tile_zero(2); _tile_zero(3);
    for (int k = 0; k < input.depth / 32; k++, panel += 2048, x += 64, y += 64) {
      if (cold) fetch(panel);
      _tile_loadd(6, panel, 128); _tile_loadd(7, panel + 64, 128);
      _tile_loadd(4, x, stride); _tile_loadd(5, y, stride);
      _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(2, out + 16 * PANEL, 128); _tile_stored(3, out + 16 * PANEL + LANES, 128);
  } else {
    for (int k = 0; k < input.depth / 32; k++, panel += 2048, x += 64) {
      if (cold) fetch(panel);
      _tile_loadd(6, panel, 128); _tile_loadd(7, panel + 64, 128);
      _tile_loadd(4, x, stride);
      _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
    }
  }
  _tile_stored(0, out, 128); _tile_stored(1, out + LANES, 128);
}

// `rows` up to 16: out (rows, 32).
inline void tiles_int8(const Matrix& matrix, int number, const Input& input, int rows, bool cold, float* out) {
  const uint8_t* panel = matrix.panel(number);
  const size_t stride = input.bytes();
  const uint8_t *high = input.row(0), *low = high + input.depth;
  alignas(64) int32_t sums[4][16][LANES];
  set_shapes(rows, rows);
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int k = 0; k < input.depth / 64; k++, panel += 2048, high += 64, low += 64) {
    if (cold) fetch(panel);
    _tile_loadd(6, panel, 128); _tile_loadd(7, panel + 64, 128);
    _tile_loadd(4, high, stride); _tile_loadd(5, low, stride);
    _tile_dpbssd(0, 4, 6); _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6); _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, sums[0], 64); _tile_stored(1, sums[1], 64); _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64);
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) {
      Integers upper, lower;
      std::memcpy(&upper, sums[half][r], 64);
      std::memcpy(&lower, sums[2 + half][r], 64);
      store(out + r * PANEL + half * LANES,
            joined(upper, lower, matrix.scale + number * PANEL + half * LANES, input.scale[r]));
    }
}

// `rows` up to 16 of an int4 matrix: out (rows, 32). Codes go to the tiles as they are, and each group's sums are scaled.
inline void tiles_int4(const Matrix& matrix, int number, const Input& input, int rows, float* out) {
  alignas(64) uint8_t words[8 * 512];  // a group in bfloat16: two steps of tiles 6 and 7
  alignas(64) float sums[16 * PANEL];
  const __m512i codes = int4_codes();
  const uint8_t* w = matrix.panel(number);
  const float* scale = matrix.group_scales(number);
  std::memset(out, 0, size_t(rows) * PANEL * 4);
  set_shapes(rows, rows);
  for (int group = 0; group < matrix.depth() / GROUP; group++, scale += PANEL) {
    for (int k = 0; k < 8; k++, w += 128) {
      _mm_prefetch(reinterpret_cast<const char*>(w + 4096), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(w + 4160), _MM_HINT_T0);
      for (int half = 0; half < 2; half++) {
        const __m512i four = _mm512_loadu_si512(w + half * 64);
        uint8_t* to = words + k * 512 + half * 64;
        _mm512_store_si512(to, (__m512i)int4_pair<0>(four, codes));
        _mm512_store_si512(to + 128, (__m512i)int4_pair<4>(four, codes));
        _mm512_store_si512(to + 256, (__m512i)int4_pair<8>(four, codes));
        _mm512_store_si512(to + 384, (__m512i)int4_pair<12>(four, codes));
      }
    }
    _tile_zero(0); _tile_zero(1);
    for (int step = 0; step < 2; step++) {
      _tile_loadd(6, words + step * 2048, 128); _tile_loadd(7, words + step * 2048 + 64, 128);
      _tile_loadd(4, input.row(0) + group * GROUP * 2 + step * 64, input.bytes());
      _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, sums, 128); _tile_stored(1, sums + LANES, 128);
    for (int i = 0; i < rows * PANEL; i += PANEL)
      for (int half = 0; half < PANEL; half += LANES)
        store(out + i + half, load(out + i + half) + load(sums + i + half) * load(scale + half));
  }
}

// An int4 panel in bfloat16, rounded after scaling, in a room of this thread's own.
inline const uint8_t* widened(const Matrix& matrix, int number) {
  static thread_local std::vector<uint8_t> room;
  const int groups = matrix.depth() / GROUP;
  room.resize(size_t(matrix.depth()) * 64 + 64);
  uint8_t* const start = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(room.data()) + 63) & ~uintptr_t(63));
  uint8_t* to = start;
  const __m512i codes = int4_codes(), odd = _mm512_set1_epi32(int32_t(0xffff0000));
  const uint8_t* w = matrix.panel(number);
  const float* scale = matrix.group_scales(number);
  for (int group = 0; group < groups; group++, scale += PANEL)
    for (int k = 0; k < 8; k++, w += 128) {
      const auto pair = [&](__m512i shifted, int half, uint8_t* place) {
        const __m512i both = _mm512_permutexvar_epi16(shifted, codes);
        const __m512 by = _mm512_loadu_ps(scale + half * LANES);
        const __m512 low = _mm512_mul_ps((__m512)_mm512_slli_epi32(both, 16), by);
        const __m512 high = _mm512_mul_ps((__m512)_mm512_and_si512(both, odd), by);
        const __m512i narrow = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
        const __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high)), 16);
        _mm512_store_si512(place, _mm512_or_si512(narrow, upper));
      };
      for (int half = 0; half < 2; half++) {
        const __m512i words = _mm512_loadu_si512(w + half * 64);
        pair(words, half, to + half * 64);
        pair(_mm512_srli_epi16(words, 4), half, to + 128 + half * 64);
        pair(_mm512_srli_epi16(words, 8), half, to + 256 + half * 64);
        pair(_mm512_srli_epi16(words, 12), half, to + 384 + half * 64);
      }
      to += 512;
    }
  return start;
}

#else
inline bool has_tiles() { return false; }
inline void forget_shapes() {}
inline void release_tiles() {}
#endif

constexpr int MOST_ROWS = 256;  // of one call of `product`

// `rows` up to MOST_ROWS rows of `input` times one panel: out (rows, 32).
inline void product(const Matrix& matrix, int panel, const Input& input, int rows, float* out) {
#if defined(KAIYUAN_TILES)
  if (rows >= 4 && matrix.format != FLOAT32 && has_tiles()) {
    if (matrix.format == INT4 && rows <= 16) return tiles_int4(matrix, panel, input, rows, out);
    const int block = matrix.format == INT8 ? 16 : 32;
    const uint8_t* data = matrix.format == INT4 ? widened(matrix, panel) : matrix.panel(panel);
    for (int first = 0; first < rows; first += block) {
      const int some = rows - first < block ? rows - first : block;
      if (matrix.format == INT8) tiles_int8(matrix, panel, input.from(first), some, first == 0, out + first * PANEL);
      else tiles_bfloat16(data, input.from(first), some, first == 0, out + first * PANEL);
    }
    return;
  }
#endif
  int first = 0;
  for (; rows - first >= 8 && matrix.format != INT8; first += 8) few<8>(matrix, panel, input.from(first), out + first * PANEL);
  for (; rows - first >= 4; first += 4) few<4>(matrix, panel, input.from(first), out + first * PANEL);
  for (; rows - first >= 2; first += 2) few<2>(matrix, panel, input.from(first), out + first * PANEL);
  if (rows > first) few<1>(matrix, panel, input.from(first), out + first * PANEL);
}

}  // namespace kaiyuan
