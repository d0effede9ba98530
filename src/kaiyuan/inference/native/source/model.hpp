// What Python hands over: the model, the cache, and what a step is to compute. Mirrored in native/structs.py.
#pragma once
#include "matrix.hpp"

namespace kaiyuan {

constexpr int PAGE = 32;  // tokens; known to the compiler, since a division a key would cost as much as the rest

inline int slot_of(const int32_t* pages, int place) { return pages[place / PAGE] * PAGE + place % PAGE; }

struct Store {  // keys or values of one producing layer: (slots, kv_heads, head_dim), INT8 with a float16 scale a head
  uint8_t* data;
  _Float16* scale;
};

struct Layer {
  const float *attention_gain, *query_gain, *moe_gain, *router;  // query_gain: null without QK-norm
  Matrix q, k, v, o, shared_up, shared_down;
  const Matrix *experts_up, *experts_down;  // one for each expert; up: gate and up by turns of 16
  Store keys, values;
  int32_t owns_kv, experts, top_k, renormalize, expert_size, shared_size;
};

struct Model {
  const Layer* layers;
  const float *frequencies, *final_gain;
  const uint8_t* embedding;
  Matrix head;
  int32_t count, hidden, heads, kv_heads, head_dim, vocabulary, cache_format, embedding_format;
  float eps;
};

struct Span {  // rows [start, end) are the last tokens of a sequence of `length`; its pages begin at `pages`
  int32_t start, end, length;
  const int32_t* pages;
};

struct Step {
  const Span* spans;
  int32_t* ids;           // of every row
  const int32_t* wanted;  // rows whose logits are wanted
  float* logits;          // (wanted, vocabulary)
  int32_t* chosen;        // (burst, rows): the most likely next tokens, or null
  float* logprobs;        // (burst, rows)
  int32_t span_count, rows, wanted_count, burst;
};

}  // namespace kaiyuan
