// What all stages of a step use: the room that threads share, the sharing out of work, products of many rows.
//
// All threads go through the same stages together; a stage is cut into pieces that threads take as they come, and ends
// at a barrier.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif
#include "model.hpp"
#include "tiles.hpp"

namespace kaiyuan {

inline int thread_count() {
#if defined(_OPENMP)
  return omp_get_num_threads();
#else
  return 1;
#endif
}
inline void barrier() {
#if defined(_OPENMP)
#pragma omp barrier
#endif
}

template <typename T>
struct Room {  // grows, never shrinks; on a cache line
  std::unique_ptr<T[], decltype(&std::free)> data{nullptr, &std::free};
  size_t size = 0;
  T* get(size_t count) {
    if (count > size) {
      data.reset(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 4095) / 64 * 64)));
      size = count;
    }
    return data.get();
  }
};

struct InputRoom {
  Room<uint8_t> data;
  Room<float> scale;
  Input get(const Matrix& matrix, int rows) {
    Input input{nullptr, nullptr, matrix.input_format(), matrix.depth()};
    input.data = data.get(input.bytes() * rows + 64);
    if (matrix.format == INT8) input.scale = scale.get(rows);
    return input;
  }
};

struct Runner {
  Model model;
  std::vector<Layer> layers;
  int padded;

  // What the threads share during a step.
  Room<float> x_room, qkv_room, attended_room, normed_room, hidden_room, shared_hidden_room, turns_room;
  InputRoom hidden_input, attended_input, shared_input, shared_down_input, routed_input, routed_down_input, head_input;
  Room<float> weight_room;
  std::vector<int> expert, order, offset, slot_of, position;
  std::vector<std::atomic<int>> counters;
  std::vector<float> best_value, best_sum;
  std::vector<int> best_index;

  explicit Runner(const Model& given)
      : model(given), layers(given.layers, given.layers + given.count), padded(round_up(given.head_dim, LANES)),
        counters(size_t(given.count) * 16 + 16) {}

  void run(const Step& step, int threads);
};

// One thread's way through a step.
struct Worker {
  Runner& at;
  const Step& step;
  const Model& model;
  int threads, rows, stage = 0;
  std::vector<float> room;
  alignas(64) float out[MOST_ROWS * PANEL];

  Worker(Runner& runner, const Step& asked)
      : at(runner), step(asked), model(runner.model), threads(thread_count()), rows(asked.rows) {}

  // Calls `work(piece)` for pieces 0 .. count - 1, each by one thread, and waits for all.
  template <typename Work>
  void share(int count, Work work) {
    std::atomic<int>& next = at.counters[stage++];
    const int some = std::max(1, count / (threads * 8));
    for (int first; (first = next.fetch_add(some)) < count;)
      for (int piece = first; piece < std::min(first + some, count); piece++) work(piece);
    barrier();
  }

  // `take(first row, rows, panel)` for every block of `input @ matrix.T`, which is in `out`. Neighbouring pieces are
  // panels for the same rows, which stay in the cache.
  template <typename Take>
  void multiply(const Matrix& matrix, const Input& input, int count, Take take) {
    share(matrix.panels * chunks(count), [&](int piece) {
      const int panel = piece % matrix.panels, first = piece / matrix.panels * MOST_ROWS;
      const int some = std::min(MOST_ROWS, count - first);
      product(matrix, panel, input.from(first), some, out);
      take(first, some, panel);
    });
  }
  static int chunks(int count) { return (count + MOST_ROWS - 1) / MOST_ROWS; }

  void normalise(float* to, const float* x, const float* gain, int count) {
    Vector squares = splat(0.0f);
    int i = 0;
    for (; i + LANES <= count; i += LANES) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < count; i++) total += x[i] * x[i];
    const float inverse = 1.0f / std::sqrt(total / count + model.eps);
    if (gain) for (i = 0; i < count; i++) to[i] = x[i] * inverse * gain[i];
    else for (i = 0; i < count; i++) to[i] = x[i] * inverse;
  }

  // Row r of `out` times `weight`, to the columns of `panel` of a row of x.
  void add(int row, int panel, int r, float weight) {
    float* to = at.x_room.data.get() + size_t(row) * model.hidden + panel * PANEL;
    const int count = model.hidden - panel * PANEL;
    if (count >= PANEL)
      for (int i = 0; i < PANEL; i += LANES) store(to + i, load(to + i) + load(out + r * PANEL + i) * weight);
    else
      for (int i = 0; i < count; i++) to[i] += weight * out[r * PANEL + i];
  }
};

}  // namespace kaiyuan
