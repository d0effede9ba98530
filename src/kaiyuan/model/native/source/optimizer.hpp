// AdamW over float32 weights, with the copy that products read; sums of squares for the gradient's norm.
#pragma once
#include "numbers.hpp"

namespace kaiyuan {

constexpr long PIECE = 32768;

struct AdamW {
  float factor, lr, beta1, beta2, eps, decay, correction1, correction2;
};

// `factor` scales the gradient; `copy` may be null.
template <typename G, typename M>
void adamw(float* master, const G* grad, M* mean, M* square, Bfloat* copy, long count, const AdamW& with, int threads) {
  const float keep = 1.0f - with.lr * with.decay, rate = with.lr / with.correction1, root = 1.0f / with.correction2;
  share((count + PIECE - 1) / PIECE, threads, [&](long piece) {
    const long end = std::min(count, (piece + 1) * PIECE);
    for (long i = piece * PIECE; i < end; i += LANES) {
      const long left = end - i;
      const Vector g = get(grad + i, left) * with.factor;
      Vector m = get(mean + i, left), v = get(square + i, left), p = get(master + i, left);
      m += (1.0f - with.beta1) * (g - m);
      v = with.beta2 * v + (1.0f - with.beta2) * g * g;
      p = p * keep - rate * m / (root_of(v) * root + with.eps);
      put(mean + i, m, left);
      put(square + i, v, left);
      put(master + i, p, left);
      if (copy) put(copy + i, p, left);
    }
  });
}

// The sum of squares of every piece.
template <typename T>
void squares(const T* x, double* sums, long count, int threads) {
  share((count + PIECE - 1) / PIECE, threads, [&](long piece) {
    const long end = std::min(count, (piece + 1) * PIECE);
    constexpr int PARTS = 64 / LANES;  // sums short enough for float32
    Vector total[PARTS] = {};
    long i = piece * PIECE;
    for (; i + PARTS * LANES <= end; i += PARTS * LANES)
      for (int part = 0; part < PARTS; part++) {
        const Vector value = get(x + i + part * LANES);
        total[part] += value * value;
      }
    for (; i < end; i += LANES) {
      const Vector value = get(x + i, end - i);
      total[0] += value * value;
    }
    sums[piece] = 0.0;
    for (int part = 0; part < PARTS; part += 2) sums[piece] += sum(total[part] + total[part + 1]);
  });
}

}  // namespace kaiyuan
