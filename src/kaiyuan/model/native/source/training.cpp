// What a training step on a CPU does between its matrix products, each in one pass over memory. Declared for Python in
// library.py. `brief` says that activations are bfloat16, else they are float32.
#define KAIYUAN_ANY_LANES
#include "activations.hpp"
#include "norms.hpp"
#include "optimizer.hpp"

using namespace kaiyuan;

// Calls `run` with a number of the type that `brief` says.
template <typename Run>
static void typed(int brief, Run run) { brief ? run(Bfloat()) : run(float()); }

#define IN(name) static_cast<const T*>(name)
#define OUT(name) static_cast<T*>(name)
#define TYPED(call) typed(brief, [&](auto kind) { using T = decltype(kind); call; })

extern "C" {

void kaiyuan_threads(void* entry) { parallel = reinterpret_cast<Parallel>(entry); }

void kaiyuan_residual_norm(const void* x, const void* added, const float* gain, void* whole, void* normed,
                           float* inverse, long rows, long size, float eps, int brief, int threads) {
  TYPED(residual_norm(IN(x), IN(added), gain, OUT(whole), OUT(normed), inverse, rows, size, eps, threads));
}

void kaiyuan_residual_norm_backward(const void* whole, const float* gain, const float* inverse, const void* grad_normed,
                                    const void* grad_whole, void* grad_x, float* grad_gain, long rows, long size,
                                    long pieces, int brief, int threads) {
  TYPED(residual_norm_backward(IN(whole), gain, inverse, IN(grad_normed), IN(grad_whole), OUT(grad_x), grad_gain, rows,
                               size, pieces, threads));
}

void kaiyuan_rope_norm(const void* x, const float* cos, const float* sin, const float* gain, void* out, long rows,
                       long heads, long places, long half, float eps, int brief, int threads) {
  TYPED(rope_norm(IN(x), cos, sin, gain, OUT(out), rows, heads, places, half, eps, threads));
}

void kaiyuan_rope_norm_backward(const void* x, const float* cos, const float* sin, const float* gain, const void* grad,
                                void* grad_x, float* grad_gain, long rows, long heads, long places, long half,
                                float eps, long pieces, int brief, int threads) {
  TYPED(rope_norm_backward(IN(x), cos, sin, gain, IN(grad), OUT(grad_x), grad_gain, rows, heads, places, half, eps,
                           pieces, threads));
}

void kaiyuan_swiglu(const void* gate_up, void* out, long rows, long width, int brief, int threads) {
  TYPED(swiglu(IN(gate_up), OUT(out), rows, width, threads));
}

void kaiyuan_swiglu_backward(const void* grad, const void* gate_up, void* grad_gate_up, void* act, long rows,
                             long width, int brief, int threads) {
  TYPED(swiglu_backward(IN(grad), IN(gate_up), OUT(grad_gate_up), OUT(act), rows, width, threads));
}

void kaiyuan_cross_entropy(void* logits, const int64_t* targets, const float* weights, float* losses, long rows,
                           long words, int grad, int brief, int threads) {
  TYPED(cross_entropy(OUT(logits), targets, weights, losses, rows, words, grad, threads));
}

void kaiyuan_squares(const void* x, double* sums, long count, int brief, int threads) {
  TYPED(squares(IN(x), sums, count, threads));
}

void kaiyuan_adamw(float* master, const void* grad, void* mean, void* square, uint16_t* copy, long count, AdamW with,
                   int brief, int brief_moments, int threads) {
  TYPED(const T* g = IN(grad); typed(brief_moments, [&](auto moment) {
    using M = decltype(moment);
    adamw(master, g, static_cast<M*>(mean), static_cast<M*>(square), copy, count, with, threads);
  }));
}
}
