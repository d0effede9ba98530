// SwiGLU, the softmax of causal attention, and cross-entropy.
#pragma once
#include "numbers.hpp"

namespace kaiyuan {

template <typename T>
void swiglu(const T* gate_up, T* out, long rows, long width, int threads) {
  share_rows(rows, width, threads, [&](long first, long end) {
    for (long row = first; row < end; row++) {
      const T *gate = gate_up + row * 2 * width, *up = gate + width;
      for (long i = 0; i < width; i += LANES)
        put(out + row * width + i, silu(get(gate + i, width - i)) * get(up + i, width - i), width - i);
    }
  });
}

// The gradient of gate and up, and the activation once more.
template <typename T>
void swiglu_backward(const T* grad, const T* gate_up, T* grad_gate_up, T* act, long rows, long width, int threads) {
  share_rows(rows, width, threads, [&](long first, long end) {
    for (long row = first; row < end; row++) {
      const T *gate = gate_up + row * 2 * width, *up = gate + width;
      T *to_gate = grad_gate_up + row * 2 * width, *to_up = to_gate + width;
      for (long i = 0; i < width; i += LANES) {
        const long left = width - i;
        const Vector g = get(gate + i, left), u = get(up + i, left), d = get(grad + row * width + i, left);
        const Vector sigmoid = 1.0f / (1.0f + exp(-g)), swish = g * sigmoid;
        put(to_gate + i, d * u * (sigmoid + swish * (1.0f - sigmoid)), left);
        put(to_up + i, d * swish, left);
        put(act + row * width + i, swish * u, left);
      }
    }
  });
}

// `weight * -log softmax(logits)[target]` of every row; the logits become its gradient if `grad`. A row with a number
// that is not finite gives no finite loss and no finite gradient.
template <typename T>
void cross_entropy(T* logits, const int64_t* targets, const float* weights, float* losses, long rows, long words,
                   bool grad, int threads) {
  share_rows(rows, words, threads, [&](long first, long end) {
    for (long row = first; row < end; row++) {
      T* of = logits + row * words;
      Vector most = splat(-INFINITY), poison = splat(0.0f), total = splat(0.0f);
      for (long i = 0; i < words; i += LANES) {
        const Vector value = get(of + i, words - i, one(of));
        most = larger(most, value);
        poison += value * 0.0f;
      }
      const float highest = largest(most);
      for (long i = 0; i < words; i += LANES) {
        Vector value = exp(get(of + i, words - i) - highest);
        if (words - i < LANES) for (long lane = words - i; lane < LANES; lane++) value[lane] = 0.0f;
        total += value;
      }
      const float weight = weights[row] + sum(poison), normalizer = highest + std::log(sum(total));
      const long target = targets[row];
      losses[row] = weight * (normalizer - one(of + target));
      if (!grad) continue;
      const float at_target = weight * (std::exp(one(of + target) - normalizer) - 1.0f);
      for (long i = 0; i < words; i += LANES)
        put(of + i, weight * exp(get(of + i, words - i) - normalizer), words - i);
      put(of + target, splat(at_target), 1);
    }
  });
}

}  // namespace kaiyuan
