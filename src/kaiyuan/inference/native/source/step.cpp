// A step of inference: all layers for the new tokens of all sequences, on all cores, in one call.
#include "feed_forward_stages.hpp"

namespace kaiyuan {

struct Stepping : FeedingForward {
  using FeedingForward::FeedingForward;

  void once() {
    forget_shapes();
    cut_blocks();
    embed();
    for (const Layer& layer : at.layers) attention(layer), feed_forward(layer);
    if (step.wanted_count) logits();
  }

  // The most likely token of every row and its log-probability; the token becomes the row's next.
  void choose(int turn) {
    const int vocabulary = model.vocabulary, parts = threads, part = (vocabulary + parts - 1) / parts;
    share(rows * parts, [&](int piece) {
      const float* row = step.logits + size_t(piece / parts) * vocabulary;
      const int begin = std::min(piece % parts * part, vocabulary), end = std::min(begin + part, vocabulary);
      int best = begin;
      float most = -INFINITY, total = 0;
      for (int i = begin; i < end; i++) if (row[i] > most) most = row[i], best = i;
      Vector sums = splat(0.0f);
      int i = begin;
      for (; i + LANES <= end; i += LANES) sums += exp(load(row + i) - most);
      for (; i < end; i++) total += std::exp(row[i] - most);
      at.best_value[piece] = most, at.best_sum[piece] = total + sum(sums), at.best_index[piece] = best;
    });
    share(rows, [&](int row) {
      int best = row * parts;
      for (int p = row * parts; p < (row + 1) * parts; p++) if (at.best_value[p] > at.best_value[best]) best = p;
      float total = 0;
      for (int p = row * parts; p < (row + 1) * parts; p++)
        if (at.best_sum[p] > 0) total += at.best_sum[p] * std::exp(at.best_value[p] - at.best_value[best]);
      step.chosen[turn * rows + row] = step.ids[row] = at.best_index[best];
      step.logprobs[turn * rows + row] = -std::log(total);
    });
  }

 private:
  void embed() {
    float* x = at.x_room.data.get();
    const Format format = Format(model.embedding_format);
    const size_t bytes = size_t(model.hidden) * width(format);
    share(rows, [&](int row) {
      widen(x + size_t(row) * model.hidden, model.embedding + bytes * step.ids[row], format, model.hidden);
      float* turn = at.turns_room.data.get() + size_t(row) * model.head_dim;
      for (int i = 0; i < model.head_dim / 2; i++) {
        const float angle = float(at.position[row]) * model.frequencies[i];
        turn[i] = std::cos(angle), turn[model.head_dim / 2 + i] = std::sin(angle);
      }
    });
  }

  void logits() {
    const int wanted = step.wanted_count, vocabulary = model.vocabulary;
    const Input input = at.head_input.get(model.head, wanted);
    share(wanted, [&](int w) {
      float* normed = at.normed_room.data.get() + size_t(w) * model.hidden;
      room.resize(std::max<size_t>(room.size(), model.hidden));
      normalise(room.data(), at.x_room.data.get() + size_t(step.wanted[w]) * model.hidden, model.final_gain, model.hidden);
      std::memcpy(normed, room.data(), size_t(model.hidden) * 4);
      set_row(input, w, normed, model.hidden);
    });
    multiply(model.head, input, wanted, [&](int first, int some, int panel) {
      const int count = std::min(PANEL, vocabulary - panel * PANEL);
      for (int r = 0; r < some; r++)
        std::memcpy(step.logits + size_t(first + r) * vocabulary + panel * PANEL, out + r * PANEL, size_t(count) * 4);
    });
  }

};

void Runner::run(const Step& step, int threads) {
  const size_t rows = step.rows, hidden = model.hidden;
  size_t most_slots = rows, expert_size = 1, shared_size = 1;
  for (const Layer& layer : layers) {
    most_slots = std::max(most_slots, rows * layer.top_k);
    expert_size = std::max(expert_size, rows * layer.top_k * layer.expert_size);
    shared_size = std::max(shared_size, rows * layer.shared_size);
    hidden_input.get(layer.q, int(rows));
    attended_input.get(layer.o, int(rows));
    shared_input.get(layer.shared_size ? layer.shared_up : layer.experts_up[0], int(rows));
    shared_down_input.get(layer.shared_size ? layer.shared_down : layer.experts_down[0], int(rows));
    routed_input.get(layer.experts_up[0], int(rows) * layer.top_k);
    routed_down_input.get(layer.experts_down[0], int(rows) * layer.top_k);
  }
  head_input.get(model.head, step.wanted_count);
  x_room.get(rows * hidden), normed_room.get(rows * hidden), turns_room.get(rows * model.head_dim);
  qkv_room.get(rows * (model.heads + 2 * model.kv_heads) * model.head_dim);
  attended_room.get(rows * model.heads * model.head_dim);
  hidden_room.get(expert_size + LANES), shared_hidden_room.get(shared_size + LANES), weight_room.get(most_slots);
  expert.resize(most_slots), order.resize(most_slots), position.resize(rows), slot_of.resize(rows);
  best_value.resize(rows * threads), best_sum.resize(rows * threads), best_index.resize(rows * threads);
  for (int turn = 0; turn < std::max(1, step.burst); turn++) {
    for (int s = 0; s < step.span_count; s++) {
      const Span& span = step.spans[s];
      for (int row = span.start; row < span.end; row++) {
        position[row] = span.length - (span.end - row) + turn;
        slot_of[row] = kaiyuan::slot_of(span.pages, position[row]);
      }
    }
    for (std::atomic<int>& counter : counters) counter = 0;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
      Stepping worker(*this, step);
      worker.once();
      if (step.chosen) worker.choose(turn);
      release_tiles();
    }
  }
}

}  // namespace kaiyuan

extern "C" {

void* kaiyuan_open(const kaiyuan::Model* model) { return new kaiyuan::Runner(*model); }

void kaiyuan_close(void* runner) { delete static_cast<kaiyuan::Runner*>(runner); }

void kaiyuan_step(void* runner, const kaiyuan::Step* step, int32_t threads) {
  static_cast<kaiyuan::Runner*>(runner)->run(*step, threads);
}

// x (rows, ins) @ weight.T: out (rows, panels * 32), columns in the order of the panels.
void kaiyuan_product(const kaiyuan::Matrix* matrix, const float* x, float* out, int32_t rows, int32_t threads) {
  using namespace kaiyuan;
  InputRoom room;
  const Input input = room.get(*matrix, rows);
  for (int row = 0; row < rows; row++) set_row(input, row, x + size_t(row) * matrix->ins, matrix->ins);
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
  {
    forget_shapes();
    std::vector<float> block(MOST_ROWS * PANEL);
#if defined(_OPENMP)
#pragma omp for schedule(dynamic)
#endif
    for (int panel = 0; panel < matrix->panels; panel++)
      for (int first = 0; first < rows; first += MOST_ROWS) {
        const int some = rows - first < MOST_ROWS ? rows - first : MOST_ROWS;
        product(*matrix, panel, input.from(first), some, block.data());
        for (int r = 0; r < some; r++)
          std::memcpy(out + (size_t(first + r) * matrix->panels + panel) * PANEL, &block[r * PANEL], PANEL * 4);
      }
    release_tiles();
  }
}

}
