// Stages of attention: projections, rotation and norm of queries and keys, the cache, attention itself.
#pragma once
#include "narrow_attention.hpp"
#include "tile_attention.hpp"
#include "worker.hpp"

namespace kaiyuan {

struct Attending : Worker {
  using Worker::Worker;

  void attention(const Layer& layer) {
    const int hidden = model.hidden, d = model.head_dim, heads = model.heads, groups = model.kv_heads;
    const int width = (heads + (layer.owns_kv ? 2 * groups : 0)) * d;
    float *x = at.x_room.data.get(), *qkv = at.qkv_room.data.get();
    const Input input = at.hidden_input.get(layer.q, rows);
    share(rows, [&](int row) {
      float* normed = at.normed_room.data.get() + size_t(row) * hidden;
      normalise(normed, x + size_t(row) * hidden, layer.attention_gain, hidden);
      set_row(input, row, normed, hidden);
    });
    project(layer, input, qkv, width);
    qk_free = layer.query_gain == nullptr;
    if (layer.owns_kv) keep(layer, width);
    look(layer, width);
    const Input attended = at.attended_input.get(layer.o, rows);
    share(rows, [&](int row) {
      set_row(attended, row, at.attended_room.data.get() + size_t(row) * heads * d, heads * d);
    });
    multiply(layer.o, attended, rows, [&](int first, int some, int panel) {
      for (int r = 0; r < some; r++) add(first + r, panel, r, 1.0f);
    });
  }

  // Queries, and keys and values where the layer owns some, side by side in rows of `width`.
  void project(const Layer& layer, const Input& input, float* qkv, int width) {
    const Matrix* matrices[3] = {&layer.q, &layer.k, &layer.v};
    const int panels = layer.q.panels + (layer.owns_kv ? layer.k.panels + layer.v.panels : 0);
    share(panels * chunks(rows), [&](int piece) {
      int panel = piece % panels, which = 0, column = 0;
      for (; panel >= matrices[which]->panels; which++)
        panel -= matrices[which]->panels, column += matrices[which]->outs;
      const Matrix& matrix = *matrices[which];
      const int first = piece / panels * MOST_ROWS, some = std::min(MOST_ROWS, rows - first);
      const int count = std::min(PANEL, matrix.outs - panel * PANEL);
      product(matrix, panel, input.from(first), some, out);
      for (int r = 0; r < some; r++)
        std::memcpy(qkv + size_t(first + r) * width + column + panel * PANEL, out + r * PANEL, size_t(count) * 4);
    });
  }

  void keep(const Layer& layer, int width) {
    const int d = model.head_dim, groups = model.kv_heads;
    const float* qkv = at.qkv_room.data.get();
    share(rows, [&](int row) {
      const float* key = qkv + size_t(row) * width + size_t(model.heads) * d;
      const float* turns = at.turns_room.data.get() + size_t(row) * d;
      std::vector<float>& turned = room;
      turned.resize(std::max<size_t>(turned.size(), d));
      for (int g = 0; g < groups; g++) {
        turn(turned.data(), key + g * d, turns, nullptr, 1.0f);
        head(layer.keys, g).write(at.slot_of[row], turned.data());
        head(layer.values, g).write(at.slot_of[row], key + (groups + g) * d);
      }
    });
  }

  // Neighbouring tokens of one sequence: with all heads that share keys one piece of work.
  struct Block { int span, start, end; };
  std::vector<Block> blocks;

  Head head(const Store& store, int group) const {
    return {store, Format(model.cache_format), model.kv_heads, group, model.head_dim};
  }

  void look(const Layer& layer, int width) {
    const int d = model.head_dim, groups = model.kv_heads, sharing = model.heads / groups, padded = at.padded;
    const float* qkv = at.qkv_room.data.get();
    float* attended = at.attended_room.data.get();
    const float scale = 1.0f / std::sqrt(float(d));
    share(int(blocks.size()) * groups, [&](int piece) {
      const Block& block = blocks[piece / groups];
      const Span& span = step.spans[block.span];
      const int group = piece % groups, count = block.end - block.start, all = count * sharing;
      queries.assign(size_t(all) * padded, 0.0f);
      answers.resize(size_t(all) * padded);
      visible.resize(all);
      for (int t = 0; t < count; t++)
        for (int h = 0; h < sharing; h++) {
          const int row = block.start + t, r = t * sharing + h;
          turn(queries.data() + size_t(r) * padded, qkv + size_t(row) * width + (group * sharing + h) * d,
               at.turns_room.data.get() + size_t(row) * d, layer.query_gain, scale);
          visible[r] = at.position[row] + 1;
        }
      const Head keys = head(layer.keys, group), values = head(layer.values, group);
      if (rounds && has_tiles() && all > 16)
        tile_attention(queries.data(), all, padded, visible.data(), span.pages, keys, values, answers.data());
      else if (rounds && knows_narrow(keys) && all <= 16)
        narrow_attention(queries.data(), all, padded, visible.data(), span.pages, keys, values, answers.data());
      else
        attend(queries.data(), all, padded, visible.data(), span.pages, keys, values, room, answers.data());
      for (int t = 0; t < count; t++)
        for (int h = 0; h < sharing; h++)
          std::memcpy(attended + (size_t(block.start + t) * model.heads + group * sharing + h) * d,
                      answers.data() + size_t(t * sharing + h) * padded, size_t(d) * 4);
    });
  }
  void cut_blocks() {
    const int tokens = std::max(1, (rounds && has_tiles() ? 256 : 16) / (model.heads / model.kv_heads));
    for (int s = 0; s < step.span_count; s++)
      for (int row = step.spans[s].start; row < step.spans[s].end; row += tokens)
        blocks.push_back({s, row, std::min(row + tokens, step.spans[s].end)});
  }

 private:
  // RoPE, then (if there is QK-norm) RMSNorm; `gain` may be null.
  void turn(float* to, const float* x, const float* turns, const float* gain, float scale) {
    const int half = model.head_dim / 2;
    float inverse = scale;
    if (gain || !qk_free) {
      float total = 0;
      for (int i = 0; i < model.head_dim; i++) total += x[i] * x[i];
      inverse = scale / std::sqrt(total / model.head_dim + model.eps);
    }
    for (int i = 0; i < half; i++) {
      const float first = x[i], second = x[i + half], cosine = turns[i], sine = turns[half + i];
      to[i] = (first * cosine - second * sine) * inverse;
      to[i + half] = (second * cosine + first * sine) * inverse;
    }
    if (gain) for (int i = 0; i < model.head_dim; i++) to[i] *= gain[i];
  }

  bool qk_free = false;  // the layer at hand has no QK-norm
  const bool rounds = model.embedding_format != FLOAT32;  // a model in float32 is computed in float32
  TileAttention tile_attention;
  NarrowAttention narrow_attention;
  std::vector<float> queries, answers;
  std::vector<int> visible;
};

}  // namespace kaiyuan
