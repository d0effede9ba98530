// Weights in panels, rows of activations in the form that the weights want, and their products.
//
// A panel holds 32 outputs. Its row number k has, for all 32 outputs one after the other, as many neighbouring inputs
// as fit into four bytes: 1 in float32, 2 in bfloat16, 4 in int8, 8 in int4. So every row is 128 bytes, reading a panel
// is reading memory in order, and 16 rows of half of it are a tile of the matrix unit.
//
// int8 weights meet activations of 15 bits, kept as two int8 halves: high * 128 + low. Both halves are multiplied
// exactly and added up in int32, so all that is lost is the rounding of the activations to 2^-15 of their largest.
// int4 weights are turned into bfloat16, which holds their codes exactly, on their way into the registers.
#pragma once
#include "vectors.hpp"

namespace kaiyuan {

constexpr int PANEL = 32;
constexpr int GROUP = 64;
constexpr float LARGEST_CODE = 16256.0f;  // 127 * 128

struct Matrix {
  const uint8_t* data;
  const float* scale;   // INT8: one for each output; INT4: (panels, groups of 64 inputs, 32 outputs)
  const int32_t* sums;  // INT8: of the codes of each output
  int32_t format, outs, ins, panels;
  int step() const { return format == FLOAT32 ? 1 : format == BFLOAT16 ? 2 : format == INT8 ? 4 : 8; }
  int depth() const { return round_up(ins, format == INT4 ? GROUP : step() * LANES); }  // whole tiles, or groups
  Format input_format() const { return format == INT4 ? BFLOAT16 : Format(format); }
  size_t panel_bytes() const { return size_t(depth()) / step() * 128; }
  const float* group_scales(int number) const { return scale + size_t(number) * (depth() / GROUP) * PANEL; }
  const uint8_t* panel(int number) const { return data + panel_bytes() * number; }
};

// Rows of activations for matrices of one format and depth. A line of 64 bytes more than they need keeps the 16 rows of
// a tile out of each other's way in the cache, where a power of two would put them all into the same few sets.
struct Input {
  uint8_t* data;
  float* scale;  // INT8: one for each row
  int32_t format, depth;
  size_t bytes() const { return size_t(depth) * width(Format(format)) * (format == INT8 ? 2 : 1) + 64; }
  uint8_t* row(int number) const { return data + bytes() * number; }  // INT8: the high half, then the low one
  Input from(int number) const { return {row(number), scale ? scale + number : nullptr, format, depth}; }
};

inline void set_row(const Input& input, int number, const float* x, int count) {
  uint8_t* row = input.row(number);
  if (input.format == FLOAT32) {
    std::memcpy(row, x, size_t(count) * 4);
    std::memset(row + size_t(count) * 4, 0, size_t(input.depth - count) * 4);
  } else if (input.format == BFLOAT16) {
    uint16_t* to = reinterpret_cast<uint16_t*>(row);
    int i = 0;
    for (; i + LANES <= count; i += LANES) store_bfloat(to + i, load(x + i));
    for (; i < count; i++) to[i] = to_bfloat(x[i]);
    std::memset(to + count, 0, size_t(input.depth - count) * 2);
  } else {
    float most = 1e-20f;
    for (int i = 0; i < count; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
    const float inverse = LARGEST_CODE / most;
    int8_t *high = reinterpret_cast<int8_t*>(row), *low = high + input.depth;
    for (int i = 0; i < count; i++) {
      const float rounder = 12582912.0f;
      int code = int((x[i] * inverse + rounder) - rounder);
      int upper = (code + 64) >> 7;
      high[i] = int8_t(upper);
      low[i] = int8_t(code - upper * 128);
    }
    std::memset(high + count, 0, input.depth - count);
    std::memset(low + count, 0, input.depth - count);
    input.scale[number] = most / LARGEST_CODE;
  }
}

inline void copy_row(const Input& to, int number, const Input& from, int source) {
  std::memcpy(to.row(number), from.row(source), from.bytes());
  if (from.format == INT8) to.scale[number] = from.scale[source];
}

// --- a few rows against one panel -----------------------------------------------------------------------------------

#if defined(__AVX512F__)
template <int ROWS>
void few_float32(const uint8_t* panel, const Input& input, float* out) {
  Vector a[ROWS] = {}, b[ROWS] = {};
  const float* w = reinterpret_cast<const float*>(panel);
  for (int k = 0; k < input.depth; k++, w += PANEL) {
    __builtin_prefetch(w + 512);
    __builtin_prefetch(w + 528);
    const Vector first = load(w), second = load(w + LANES);
    for (int r = 0; r < ROWS; r++) {
      const float x = reinterpret_cast<const float*>(input.row(r))[k];
      a[r] += first * x;
      b[r] += second * x;
    }
  }
  for (int r = 0; r < ROWS; r++) store(out + r * PANEL, a[r]), store(out + r * PANEL + LANES, b[r]);
}
#else
// Where registers have 32 bytes or less: the compiler keeps a vector of 64 in memory, so here are smaller ones, and two
// rows at a time, whose eight sums and four weights fit into sixteen registers. The order of each sum is the same.
typedef float Narrow __attribute__((vector_size(32)));
typedef float NarrowUnaligned __attribute__((vector_size(32), aligned(4), may_alias));

template <int ROWS>
void few_float32(const uint8_t* panel, const Input& input, float* out) {
  if constexpr (ROWS > 2) {
    few_float32<2>(panel, input, out);
    few_float32<ROWS - 2>(panel, input.from(2), out + 2 * PANEL);
  } else {
    constexpr int PARTS = PANEL / 8;
    Narrow sums[ROWS][PARTS] = {};
    const float* w = reinterpret_cast<const float*>(panel);
    for (int k = 0; k < input.depth; k++, w += PANEL) {
      __builtin_prefetch(w + 512);
      __builtin_prefetch(w + 528);
      for (int part = 0; part < PARTS; part++) {
        const Narrow weights = *reinterpret_cast<const NarrowUnaligned*>(w + 8 * part);
        for (int r = 0; r < ROWS; r++) sums[r][part] += weights * reinterpret_cast<const float*>(input.row(r))[k];
      }
    }
    for (int r = 0; r < ROWS; r++)
      for (int part = 0; part < PARTS; part++)
        *reinterpret_cast<NarrowUnaligned*>(out + r * PANEL + 8 * part) = sums[r][part];
  }
}
#endif

template <int ROWS>
void few_bfloat16(const uint8_t* panel, const Input& input, float* out) {
  const int steps = input.depth / 2;
#if defined(__AVX512BF16__)
  constexpr int UNROLL = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;
  __m512 a[ROWS][UNROLL], b[ROWS][UNROLL];
  for (int r = 0; r < ROWS; r++)
    for (int u = 0; u < UNROLL; u++) a[r][u] = b[r][u] = _mm512_setzero_ps();
  for (int k = 0; k < steps; k += UNROLL) {
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; u++) {
      const uint8_t* w = panel + size_t(k + u) * 128;
      _mm_prefetch(reinterpret_cast<const char*>(w + 8192), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(w + 8256), _MM_HINT_T0);
      const __m512bh first = (__m512bh)_mm512_loadu_si512(w), second = (__m512bh)_mm512_loadu_si512(w + 64);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        const __m512bh x = (__m512bh)_mm512_set1_epi32(reinterpret_cast<const int32_t*>(input.row(r))[k + u]);
        a[r][u] = _mm512_dpbf16_ps(a[r][u], first, x);
        b[r][u] = _mm512_dpbf16_ps(b[r][u], second, x);
      }
    }
  }
  for (int r = 0; r < ROWS; r++) {
    for (int u = 1; u < UNROLL; u++) a[r][0] += a[r][u], b[r][0] += b[r][u];
    _mm512_storeu_ps(out + r * PANEL, a[r][0]);
    _mm512_storeu_ps(out + r * PANEL + LANES, b[r][0]);
  }
#else
  Vector a[ROWS] = {}, b[ROWS] = {};
  for (int k = 0; k < steps; k++) {
    const Integers* w = reinterpret_cast<const Integers*>(panel + size_t(k) * 128);
    const Integers first = w[0], second = w[1];
    for (int r = 0; r < ROWS; r++) {
      const uint16_t* x = reinterpret_cast<const uint16_t*>(input.row(r)) + 2 * k;
      const float even = from_bfloat(x[0]), odd = from_bfloat(x[1]);
      a[r] += (Vector)(first << 16) * even + (Vector)(first & int32_t(0xffff0000)) * odd;
      b[r] += (Vector)(second << 16) * even + (Vector)(second & int32_t(0xffff0000)) * odd;
    }
  }
  for (int r = 0; r < ROWS; r++) store(out + r * PANEL, a[r]), store(out + r * PANEL + LANES, b[r]);
#endif
}

// What int32 sums of both halves come to; `outs` is the panel's first output.
inline Vector joined(Integers high, Integers low, const float* scale, float row_scale) {
  return (__builtin_convertvector(high, Vector) * 128.0f + __builtin_convertvector(low, Vector)) * load(scale) *
         row_scale;
}

template <int ROWS>
void few_int8(const uint8_t* panel, const Matrix& matrix, int first_out, const Input& input, float* out) {
  const int steps = input.depth / 4;
  Integers high[ROWS][2] = {}, low[ROWS][2] = {};
#if defined(__AVX512VNNI__)
  for (int k = 0; k < steps; k++) {
    const uint8_t* w = panel + size_t(k) * 128;
    _mm_prefetch(reinterpret_cast<const char*>(w + 8192), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(w + 8256), _MM_HINT_T0);
    const __m512i codes[2] = {_mm512_loadu_si512(w), _mm512_loadu_si512(w + 64)};
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
      // The instruction wants one side unsigned: x + 128, taken back below by the sums of the codes.
      const int32_t* x = reinterpret_cast<const int32_t*>(input.row(r));
      const __m512i upper = _mm512_set1_epi32(x[k] ^ int32_t(0x80808080));
      const __m512i lower = _mm512_set1_epi32(x[k + steps] ^ int32_t(0x80808080));
      for (int half = 0; half < 2; half++) {
        high[r][half] = (Integers)_mm512_dpbusd_epi32((__m512i)high[r][half], upper, codes[half]);
        low[r][half] = (Integers)_mm512_dpbusd_epi32((__m512i)low[r][half], lower, codes[half]);
      }
    }
  }
  for (int half = 0; half < 2; half++) {
    Integers offset;
    std::memcpy(&offset, matrix.sums + first_out + half * LANES, 64);
    for (int r = 0; r < ROWS; r++) high[r][half] -= offset * 128, low[r][half] -= offset * 128;
  }
#else
  for (int k = 0; k < steps; k++)
    for (int r = 0; r < ROWS; r++) {
      const int8_t *x = reinterpret_cast<const int8_t*>(input.row(r)) + 4 * k, *y = x + input.depth;
      const int8_t* w = reinterpret_cast<const int8_t*>(panel) + size_t(k) * 128;
      for (int half = 0; half < 2; half++)
        for (int lane = 0; lane < LANES; lane++)
          for (int i = 0; i < 4; i++) {
            const int32_t code = w[half * 64 + lane * 4 + i];
            high[r][half][lane] += code * x[i];
            low[r][half][lane] += code * y[i];
          }
    }
#endif
  for (int r = 0; r < ROWS; r++)
    for (int half = 0; half < 2; half++)
      store(out + r * PANEL + half * LANES,
            joined(high[r][half], low[r][half], matrix.scale + first_out + half * LANES, input.scale[r]));
}

// A word of int4 weights holds the codes, plus 8, of inputs 0, 2, 4, 6 from the lowest four bits up and then of 1, 3, 5, 7:
// shifted by 4 j, its halves begin with inputs 2 j and 2 j + 1.
#if defined(__AVX512BF16__)
inline __m512i int4_codes() {  // as bfloat16, by the lowest five bits
  alignas(64) uint16_t table[32];
  for (int i = 0; i < 32; i++) table[i] = to_bfloat(float((i & 15) - 8));
  return _mm512_load_si512(table);
}
template <int SHIFT>
inline __m512bh int4_pair(__m512i words, __m512i codes) {
  return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, SHIFT), codes);
}
#endif

template <int ROWS>
void few_int4(const uint8_t* panel, const float* scale, const Input& input, float* out) {
  Vector total[ROWS][2] = {};
#if defined(__AVX512BF16__)
  const __m512i codes = int4_codes();
#endif
  for (int group = 0; group < input.depth / GROUP; group++, scale += PANEL) {
    Vector sums[ROWS][2] = {};
    for (int k = group * 8; k < group * 8 + 8; k++) {
      const uint8_t* w = panel + size_t(k) * 128;
#if defined(__AVX512BF16__)
      _mm_prefetch(reinterpret_cast<const char*>(w + 8192), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(w + 8256), _MM_HINT_T0);
      const __m512i first = _mm512_loadu_si512(w), second = _mm512_loadu_si512(w + 64);
      const auto pair = [&](__m512bh a, __m512bh b, int j) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
          const __m512bh x = (__m512bh)_mm512_set1_epi32(reinterpret_cast<const int32_t*>(input.row(r))[k * 4 + j]);
          sums[r][0] = (Vector)_mm512_dpbf16_ps((__m512)sums[r][0], a, x);
          sums[r][1] = (Vector)_mm512_dpbf16_ps((__m512)sums[r][1], b, x);
        }
      };
      pair(int4_pair<0>(first, codes), int4_pair<0>(second, codes), 0);
      pair(int4_pair<4>(first, codes), int4_pair<4>(second, codes), 1);
      pair(int4_pair<8>(first, codes), int4_pair<8>(second, codes), 2);
      pair(int4_pair<12>(first, codes), int4_pair<12>(second, codes), 3);
#else
      for (int half = 0; half < 2; half++) {
        Integers words;
        std::memcpy(&words, w + half * 64, 64);
        for (int i = 0; i < 8; i++) {
          const Vector codes = __builtin_convertvector(((words >> (i / 2 * 4 + i % 2 * 16)) & 15) - 8, Vector);
          for (int r = 0; r < ROWS; r++)
            sums[r][half] += codes * from_bfloat(reinterpret_cast<const uint16_t*>(input.row(r))[k * 8 + i]);
        }
      }
#endif
    }
    for (int r = 0; r < ROWS; r++)
      for (int half = 0; half < 2; half++) total[r][half] += sums[r][half] * load(scale + half * LANES);
  }
  for (int r = 0; r < ROWS; r++)
    for (int half = 0; half < 2; half++) store(out + r * PANEL + half * LANES, total[r][half]);
}

template <int ROWS>
void few(const Matrix& matrix, int panel, const Input& input, float* out) {
  const uint8_t* data = matrix.panel(panel);
  if (matrix.format == FLOAT32) few_float32<ROWS>(data, input, out);
  else if (matrix.format == BFLOAT16) few_bfloat16<ROWS>(data, input, out);
  else if (matrix.format == INT8) few_int8<ROWS>(data, matrix, panel * PANEL, input, out);
  else few_int4<ROWS>(data, matrix.group_scales(panel), input, out);
}

}  // namespace kaiyuan
