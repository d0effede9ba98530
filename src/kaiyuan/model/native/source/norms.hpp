// RMSNorm beside a residual stream, and RoPE with the norm of queries and keys, forwards and backwards.
#pragma once
#include "numbers.hpp"

namespace kaiyuan {

template <typename T>
void residual_norm(const T* x, const T* added, const float* gain, T* whole, T* normed, float* inverse, long rows,
                   long size, float eps, int threads) {
  share_rows(rows, size, threads, [&](long first, long end) {
    for (long row = first; row < end; row++) {
      const T* from = x + row * size;
      Vector squares = splat(0.0f);
      if (added) {
        T* sum = whole + row * size;
        for (long i = 0; i < size; i += LANES)
          put(sum + i, get(from + i, size - i) + get(added + row * size + i, size - i), size - i);
        from = sum;
      }
      for (long i = 0; i < size; i += LANES) {
        const Vector value = get(from + i, size - i);
        squares += value * value;
      }
      const float scale = inverse[row] = 1.0f / std::sqrt(sum(squares) / size + eps);
      for (long i = 0; i < size; i += LANES)
        put(normed + row * size + i, get(from + i, size - i) * scale * get(gain + i, size - i), size - i);
    }
  });
}

// `grad_gain` has one row of sums for each of `pieces`.
template <typename T>
void residual_norm_backward(const T* whole, const float* gain, const float* inverse, const T* grad_normed,
                            const T* grad_whole, T* grad_x, float* grad_gain, long rows, long size, long pieces,
                            int threads) {
  share(pieces, threads, [&](long piece) {
    float* totals = grad_gain + piece * size;
    std::fill(totals, totals + size, 0.0f);
    for (long row = piece * rows / pieces; row < (piece + 1) * rows / pieces; row++) {
      const float scale = inverse[row];
      const T *x = whole + row * size, *grad = grad_normed + row * size;
      Vector along = splat(0.0f);
      for (long i = 0; i < size; i += LANES) {
        const Vector unit = get(x + i, size - i) * scale, up = get(grad + i, size - i);
        put(totals + i, get(totals + i, size - i) + up * unit, size - i);
        along += up * get(gain + i, size - i) * unit;
      }
      const float projection = sum(along) / size;
      for (long i = 0; i < size; i += LANES) {
        const Vector unit = get(x + i, size - i) * scale;
        Vector found = scale * (get(grad + i, size - i) * get(gain + i, size - i) - unit * projection);
        if (grad_whole) found += get(grad_whole + row * size + i, size - i);
        put(grad_x + row * size + i, found, size - i);
      }
    }
  });
}

// A row is one head of one token; `places` tokens have angles, which repeat; `half` is half of a head's size.
template <typename T>
void rope_norm(const T* x, const float* cos, const float* sin, const float* gain, T* out, long rows, long heads,
               long places, long half, float eps, int threads) {
  share_rows(rows, 2 * half, threads, [&](long first, long end) {
    for (long row = first; row < end; row++) {
      const T *a = x + row * 2 * half, *b = a + half;
      const float *c = cos + row / heads % places * half, *s = sin + row / heads % places * half;
      T* to = out + row * 2 * half;
      Vector squares = splat(0.0f);
      for (long i = 0; i < half; i += LANES) {
        const Vector u = get(a + i, half - i), v = get(b + i, half - i);
        squares += u * u + v * v;
      }
      const float scale = 1.0f / std::sqrt(sum(squares) / (2 * half) + eps);
      for (long i = 0; i < half; i += LANES) {
        const long left = half - i;
        const Vector u = get(a + i, left) * scale, v = get(b + i, left) * scale;
        const Vector co = get(c + i, left), si = get(s + i, left);
        Vector p = u * co - v * si, q = v * co + u * si;
        if (gain) p *= get(gain + i, left), q *= get(gain + half + i, left);
        put(to + i, p, left);
        put(to + half + i, q, left);
      }
    }
  });
}

template <typename T>
void rope_norm_backward(const T* x, const float* cos, const float* sin, const float* gain, const T* grad, T* grad_x,
                        float* grad_gain, long rows, long heads, long places, long half, float eps, long pieces,
                        int threads) {
  share(pieces, threads, [&](long piece) {
    float* totals = grad_gain + piece * 2 * half;
    if (gain) std::fill(totals, totals + 2 * half, 0.0f);
    for (long row = piece * rows / pieces; row < (piece + 1) * rows / pieces; row++) {
      const T *a = x + row * 2 * half, *b = a + half, *g = grad + row * 2 * half, *h = g + half;
      const float *c = cos + row / heads % places * half, *s = sin + row / heads % places * half;
      Vector squares = splat(0.0f);
      for (long i = 0; i < half; i += LANES) {
        const Vector u = get(a + i, half - i), v = get(b + i, half - i);
        squares += u * u + v * v;
      }
      const float scale = 1.0f / std::sqrt(sum(squares) / (2 * half) + eps);
      Vector along = splat(0.0f);
      // The gradient before the rotation; the second pass turns it again rather than keep it.
      auto turned = [&](long i, Vector u, Vector v, Vector& p, Vector& q, bool count) {
        const long left = half - i;
        const Vector co = get(c + i, left), si = get(s + i, left);
        Vector up = get(g + i, left), low = get(h + i, left);
        if (gain) {
          if (count) {
            put(totals + i, get(totals + i, left) + up * (u * co - v * si), left);
            put(totals + half + i, get(totals + half + i, left) + low * (v * co + u * si), left);
          }
          up *= get(gain + i, left), low *= get(gain + half + i, left);
        }
        p = up * co + low * si, q = low * co - up * si;
      };
      Vector p, q;
      for (long i = 0; i < half; i += LANES) {
        const Vector u = get(a + i, half - i) * scale, v = get(b + i, half - i) * scale;
        turned(i, u, v, p, q, true);
        along += p * u + q * v;
      }
      const float projection = sum(along) / (2 * half);
      for (long i = 0; i < half; i += LANES) {
        const Vector u = get(a + i, half - i) * scale, v = get(b + i, half - i) * scale;
        turned(i, u, v, p, q, false);
        put(grad_x + row * 2 * half + i, scale * (p - u * projection), half - i);
        put(grad_x + row * 2 * half + half + i, scale * (q - v * projection), half - i);
      }
    }
  });
}

}  // namespace kaiyuan
