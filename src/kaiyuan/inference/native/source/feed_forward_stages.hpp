// Stages of the mixture of experts: routing, the order of assignments, both products of every expert.
#pragma once
#include "attention_stages.hpp"

namespace kaiyuan {

struct FeedingForward : Attending {
  using Attending::Attending;

  // Every token's experts and weights; router in float32.
  void route(const Layer& layer, int row, const float* normed) {
    const int experts = layer.experts, chosen = layer.top_k;
    std::vector<float>& score = room;
    score.resize(std::max<size_t>(score.size(), experts));
    float most = -INFINITY, total = 0;
    for (int e = 0; e < experts; e++) {
      const float* w = layer.router + size_t(e) * model.hidden;
      Vector dot = splat(0.0f);
      int i = 0;
      for (; i + LANES <= model.hidden; i += LANES) dot += load(w + i) * load(normed + i);
      score[e] = sum(dot);
      for (; i < model.hidden; i++) score[e] += w[i] * normed[i];
      most = std::max(most, score[e]);
    }
    for (int e = 0; e < experts; e++) total += score[e] = std::exp(score[e] - most);
    float* weight = at.weight_room.data.get() + size_t(row) * chosen;
    int* expert = at.expert.data() + size_t(row) * chosen;
    float kept = 0;
    for (int k = 0; k < chosen; k++) {
      int best = 0;
      for (int e = 1; e < experts; e++) if (score[e] > score[best]) best = e;
      expert[k] = best, weight[k] = score[best] / total;
      kept += weight[k], score[best] = -1.0f;
    }
    if (layer.renormalize) for (int k = 0; k < chosen; k++) weight[k] /= kept;
  }

  // Assignments in the order of their experts: every thread could find it, one does.
  void sort(const Layer& layer) {
    const int all = rows * layer.top_k;
    at.offset.assign(layer.experts + 1, 0);
    for (int a = 0; a < all; a++) at.offset[at.expert[a] + 1]++;
    for (int e = 0; e < layer.experts; e++) at.offset[e + 1] += at.offset[e];
    std::vector<int> next(at.offset.begin(), at.offset.end() - 1);
    for (int a = 0; a < all; a++) at.order[next[at.expert[a]]++] = a;
  }

  void feed_forward(const Layer& layer) {
    const int hidden = model.hidden, all = rows * layer.top_k;
    float* x = at.x_room.data.get();
    const Input shared = at.shared_input.get(layer.shared_size ? layer.shared_up : layer.experts_up[0], rows);
    const Input routed = at.routed_input.get(layer.experts_up[0], all);
    share(rows, [&](int row) {
      float* normed = at.normed_room.data.get() + size_t(row) * hidden;
      normalise(normed, x + size_t(row) * hidden, layer.moe_gain, hidden);
      set_row(shared, row, normed, hidden);
      route(layer, row, normed);
    });
    share(1, [&](int) { sort(layer); });
    share(all, [&](int place) { copy_row(routed, place, shared, at.order[place] / layer.top_k); });
    const Input shared_down = at.shared_down_input.get(layer.shared_size ? layer.shared_down : layer.experts_down[0], rows);
    const Input routed_down = at.routed_down_input.get(layer.experts_down[0], all);
    up(layer, shared, routed, shared_down, routed_down);
    if (routed_down.format != BFLOAT16) share(all + (layer.shared_size ? rows : 0), [&](int place) {
      const int size = place < all ? layer.expert_size : layer.shared_size, row = place < all ? place : place - all;
      const float* from = (place < all ? at.hidden_room : at.shared_hidden_room).data.get() + size_t(row) * size;
      set_row(place < all ? routed_down : shared_down, row, from, size);
    });
    down(layer, shared_down, routed_down);
  }

  // silu(gate) * up of one panel, which holds 16 of each, for rows [begin, end): to rows of `to`, or to `next` where that
  // is bfloat16 and needs nothing but rounding.
  void gated(const Matrix& matrix, int panel, const Input& input, int begin, int end, float* to, int size,
             const Input& next) {
    const int lanes = std::min(LANES, size - panel * LANES);
    for (int first = begin; first < end; first += MOST_ROWS) {
      const int some = std::min(MOST_ROWS, end - first);
      product(matrix, panel, input.from(first), some, out);
      for (int r = 0; r < some; r++) {
        const Vector act = silu(load(out + r * PANEL)) * load(out + r * PANEL + LANES);
        if (next.format == BFLOAT16) {
          uint16_t* row = reinterpret_cast<uint16_t*>(next.row(first + r)) + panel * LANES;
          store_bfloat(row, act);
          if (panel == matrix.panels - 1 && matrix.panels % 2) store_bfloat(row + LANES, splat(0.0f));  // the padding
        } else
          std::memcpy(to + size_t(first + r) * size + panel * LANES, &act, size_t(lanes) * 4);
      }
    }
  }

  void up(const Layer& layer, const Input& shared, const Input& routed, const Input& shared_down, const Input& routed_down) {
    const int panels = layer.experts_up[0].panels;
    const int more = layer.shared_size ? layer.shared_up.panels * chunks(rows) : 0;
    busy.clear();
    for (int e = 0; e < layer.experts; e++) if (at.offset[e + 1] > at.offset[e]) busy.push_back(e);
    share(more + int(busy.size()) * panels, [&](int piece) {
      if (piece < more) {
        const int first = piece / layer.shared_up.panels * MOST_ROWS;
        return gated(layer.shared_up, piece % layer.shared_up.panels, shared, first, std::min(first + MOST_ROWS, rows),
                     at.shared_hidden_room.data.get(), layer.shared_size, shared_down);
      }
      const int e = busy[(piece - more) / panels];
      gated(layer.experts_up[e], (piece - more) % panels, routed, at.offset[e], at.offset[e + 1],
            at.hidden_room.data.get(), layer.expert_size, routed_down);
    });
  }
  std::vector<int> busy;

  // Columns are shared out, so no two threads add to the same number; a few panels at a time for as many rows as stay in
  // the cache.
  void down(const Layer& layer, const Input& shared, const Input& routed) {
    const int panels = layer.experts_down[0].panels;
    const int together = rows > 32 ? std::clamp(panels / (threads * 2), 1, 4) : 1;
    share((panels + together - 1) / together, [&](int piece) {
      const int begin = piece * together, end = std::min(begin + together, panels);
      for (int first = 0; layer.shared_size && first < rows; first += MOST_ROWS)
        for (int panel = begin; panel < end; panel++) {
          const int some = std::min(MOST_ROWS, rows - first);
          product(layer.shared_down, panel, shared.from(first), some, out);
          for (int r = 0; r < some; r++) add(first + r, panel, r, 1.0f);
        }
      for (int e : busy)
        for (int panel = begin; panel < end; panel++)
          for (int first = at.offset[e]; first < at.offset[e + 1]; first += MOST_ROWS) {
            const int some = std::min(MOST_ROWS, at.offset[e + 1] - first);
            product(layer.experts_down[e], panel, routed.from(first), some, out);
            for (int r = 0; r < some; r++) {
              const int assignment = at.order[first + r];
              add(assignment / layer.top_k, panel, r, at.weight_room.data.get()[assignment]);
            }
          }
    });
  }
};

}  // namespace kaiyuan
