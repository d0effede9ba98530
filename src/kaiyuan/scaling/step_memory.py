"""What a training step holds beside the optimiser's state, moment by moment, on a GPU's fused path.

Activations pile up from layer to layer and go in reverse order, while gradients of weights come; each layer's
backward pass needs working memory of its own. The fullest moment is the end of the forward pass for long sequences,
and some layer of the backward pass or the optimiser's step for short ones.

Letters: D hidden size, Q = heads x head_dim, G = kv_heads x head_dim, F an expert's width, S the shared expert's, E
experts, k experts a token, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

from kaiyuan.model.config import LayerShape, ModelConfig
from kaiyuan.model.flops import attention_parameters, count_parameters

Recompute = Literal["none", "experts", "blocks"]
BLOCK_LOGITS = 2**28
"""Logits that the loss holds at a time (``kaiyuan.model.loss.block_rows``)."""


def _sizes(config: ModelConfig, layer: LayerShape) -> tuple[int, int, int]:
    """D, Q, and G where the layer owns keys and values."""
    query = config.num_attention_heads * config.head_dim
    return config.hidden_size, query, config.num_kv_heads * config.head_dim if layer.owns_kv else 0


def kept_elements(config: ModelConfig, layer: LayerShape, recompute: Recompute) -> int:
    """bfloat16 elements that one layer keeps of one token.

    ``4 D + 3 Q + 3 G + 3 S + 3 k F``: input and output of both norms; query before and after RoPE and norm, and
    attention's output; key before and after, and value; gate, up and their product of both kinds of experts. Beside
    them, in float32 or int64: attention's and the norms' statistics, the router's logits and probabilities, and the
    order of assignments.
    """
    hidden, query, key_value = _sizes(config, layer)
    statistics = 2 * config.num_attention_heads + 4
    if recompute == "blocks":
        passed_on = 2 * key_value if config.cla_share_factor > 1 else 0
        return hidden + query + passed_on + statistics
    inner = 0 if recompute == "experts" else 3 * (layer.shared_size + layer.top_k * layer.expert_size)
    routing = 4 * layer.num_experts + 16 * layer.top_k
    return 4 * hidden + 3 * query + 3 * key_value + inner + statistics + routing


def working_elements(config: ModelConfig, layer: LayerShape, recompute: Recompute) -> int:
    """bfloat16 elements a token of the experts' backward pass beyond what is kept: gradients of their output (also
    sorted), of the activation, and of gate and up; and what is computed again.
    """
    again = 0
    if recompute == "experts":
        again = 3 * layer.top_k * layer.expert_size
    elif recompute == "blocks":
        again = kept_elements(config, layer, "none") - config.hidden_size
    wide = layer.top_k * max(3 * layer.expert_size + config.hidden_size, 2 * layer.expert_size + 2 * config.hidden_size)
    return 2 * config.hidden_size + wide + again


def _layer_parameters(config: ModelConfig, layer: LayerShape) -> int:
    feed_forward = 3 * config.hidden_size * (layer.shared_size + layer.num_experts * layer.expert_size)
    return attention_parameters(config, layer) + feed_forward


def largest_layer(config: ModelConfig) -> int:
    """Parameters of the largest layer."""
    return max(_layer_parameters(config, layer) for layer in config.layers())


def kept_bytes(config: ModelConfig, recompute: Recompute = "none") -> int:
    """Bytes a token that the forward pass keeps: all layers, the final norm's input and output."""
    return 2 * (sum(kept_elements(config, layer, recompute) for layer in config.layers()) + 2 * config.hidden_size)


def _loss_bytes(config: ModelConfig, tokens: int) -> int:
    """A block of logits, the gradient of the features, and the head's in float32 with a block's share of it."""
    words, hidden = config.vocab_size, config.hidden_size
    return 2 * min(BLOCK_LOGITS, words * tokens) + 2 * hidden * tokens + 6 * words * hidden


def working_bytes(config: ModelConfig, tokens: int, recompute: Recompute = "none") -> int:
    """Bytes that come and go: the loss's or those of the layer that needs most."""
    layers = max(working_elements(config, layer, recompute) for layer in config.layers())
    return max(_loss_bytes(config, tokens), 2 * layers * tokens)


def over_the_state(config: ModelConfig, tokens: int, recompute: Recompute = "none") -> int:
    """Bytes by which the fullest moment of a step of ``tokens`` exceeds the state, gradients counted with the state."""
    head = 2 * config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    gradients = 2 * count_parameters(config).total
    features = 2 * 2 * config.hidden_size * tokens
    kept = [2 * kept_elements(config, layer, recompute) * tokens for layer in config.layers()]
    moments = [sum(kept) + features + _loss_bytes(config, tokens)]
    arrived = head
    for index in reversed(range(config.num_layers)):
        layer = config.layer(index)
        arrived += 2 * _layer_parameters(config, layer)
        working = 2 * working_elements(config, layer, recompute) * tokens
        moments.append(sum(kept[: index + 1]) + features + working + arrived)
    return max(moment - gradients for moment in [*moments, gradients + features])
