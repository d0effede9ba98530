// Vectors of floats in the compiler's own notation, which every machine has; number formats; exp.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kaiyuan {

// A vector that fits no register is kept in memory, which costs more than it saves: whoever can do with vectors of any
// length (KAIYUAN_ANY_LANES) gets 8 floats where there is no AVX-512.
#if defined(KAIYUAN_ANY_LANES) && !defined(__AVX512F__)
constexpr int LANES = 8;
#else
constexpr int LANES = 16;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
inline Vector splat(float value) { return value - Vector{}; }

inline float sum(Vector v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += v[lane];
  return total;
#endif
}

// The sums of four vectors side by side: half the work of four sums.
inline void sums(const Vector v[4], float* to) {
#if defined(__AVX512F__)
  const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
  for (int i = 0; i < 4; i++) to[i] = sum(v[i]);
#endif
}

inline float largest(Vector v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#else
  float most = v[0];
  for (int lane = 1; lane < LANES; lane++) most = v[lane] > most ? v[lane] : most;
  return most;
#endif
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
inline Vector smaller(Vector a, Vector b) { return a < b ? a : b; }

// e^x to one part in 10^7 from -87 to 88; what is beyond counts as those.
inline Vector exp(Vector x) {
  x = smaller(larger(x, splat(-87.0f)), splat(88.0f));
  const Vector rounder = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Vector n = (x * 1.44269504f + rounder) - rounder;
  Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vector p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
  return p * reinterpret_cast<Vector>(power);
}

inline Vector root_of(Vector x) {
  for (int lane = 0; lane < LANES; lane++) x[lane] = std::sqrt(x[lane]);
  return x;
}

inline Vector silu(Vector x) { return x / (1.0f + exp(-x)); }

// --- number formats -------------------------------------------------------------------------------------------------

inline uint32_t bits(float x) { uint32_t u; std::memcpy(&u, &x, 4); return u; }
inline float from_bits(uint32_t u) { float x; std::memcpy(&x, &u, 4); return x; }
inline uint16_t to_bfloat(float x) {  // to the nearest, ties to even
  uint32_t u = bits(x);
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
inline void store_bfloat(uint16_t* to, Vector x) {
#if defined(__AVX512BF16__)
  const __m256bh halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
  std::memcpy(to, &halves, 32);
#else
  const Integers u = reinterpret_cast<Integers>(x);
  const Integers rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(x == x ? rounded : Integers{} + 0x7fc0, Halves);
#endif
}
inline Vector load_bfloat(const uint16_t* from) {
  const Integers wide = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Integers) << 16;
  return reinterpret_cast<Vector>(wide);
}
inline float from_bfloat(uint16_t h) { return from_bits(uint32_t(h) << 16); }

// float8 e4m3 (no infinities): 1 sign, 4 bits of exponent (bias 7), 3 of mantissa.
inline float from_fp8(uint8_t code) {
  int exponent = (code >> 3) & 15, mantissa = code & 7;
  float size = exponent ? std::ldexp(8.0f + mantissa, exponent - 10) : std::ldexp(float(mantissa), -9);
  return code & 0x80 ? -size : size;
}
inline uint8_t to_fp8(float x) {
  uint8_t sign = bits(x) >> 31 << 7;
  float size = std::fabs(x) > 448.0f ? 448.0f : std::fabs(x);
  if (size < 0.015625f) return sign | uint8_t(std::nearbyint(size * 512.0f));
  int exponent = std::ilogb(size), mantissa = int(std::nearbyint(std::ldexp(size, 3 - exponent)));
  return sign | uint8_t(((exponent + 7) << 3) + mantissa - 8);  // a mantissa of 16 carries into the exponent
}
struct Fp8Table {
  float value[256];
  Fp8Table() { for (int code = 0; code < 256; code++) value[code] = from_fp8(uint8_t(code)); }
};
inline const Fp8Table fp8_table;

enum Format : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, FLOAT16 = 3, FP8 = 4, INT4 = 5 };

// `count` numbers of `format` as floats; `scale` counts for INT8.
inline void widen(float* to, const void* from, Format format, int count, float scale = 1.0f) {
  switch (format) {
    case FLOAT32: std::memcpy(to, from, size_t(count) * 4); break;
    case BFLOAT16: for (int i = 0; i < count; i++) to[i] = from_bfloat(static_cast<const uint16_t*>(from)[i]); break;
    case FLOAT16: for (int i = 0; i < count; i++) to[i] = float(static_cast<const _Float16*>(from)[i]); break;
    case FP8: for (int i = 0; i < count; i++) to[i] = fp8_table.value[static_cast<const uint8_t*>(from)[i]]; break;
    default: for (int i = 0; i < count; i++) to[i] = scale * static_cast<const int8_t*>(from)[i]; break;
  }
}

inline int width(Format format) { return format == FLOAT32 ? 4 : format == BFLOAT16 || format == FLOAT16 ? 2 : 1; }

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

}  // namespace kaiyuan
