"""Bytes that training and inference take, from a config alone.

Training keeps, for every parameter, a float32 master copy, a float32 gradient and AdamW's two float32 moments; each
product casts its weight to bfloat16, and the casts live until the backward pass has used them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kaiyuan.model.config import LayerShape, ModelConfig
from kaiyuan.model.flops import count_parameters

MASTER, GRADIENT, MOMENTS, CAST = 4, 4, 8, 2
"""Bytes a parameter."""
USABLE = 0.9
"""The share of a GPU's memory to plan with: the rest goes to the context, communication buffers, fragmentation."""
GIB = 1024**3


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one GPU with the state evenly sharded over all of them, and one sequence in flight on each.

    ``gathered`` is the largest layer in bfloat16, which a sharded run holds whole while it computes it (0 on a single
    GPU). ``activations`` are kept from forward to backward; ``recomputed`` is what is left of them if each layer
    keeps its input alone and is run again in the backward pass.
    """

    parameters: float
    gradients: float
    moments: float
    casts: float
    gathered: float
    activations: float
    recomputed: float

    @property
    def state(self) -> float:
        return self.parameters + self.gradients + self.moments + self.casts

    @property
    def total(self) -> float:
        return self.state + self.gathered + self.activations

    @property
    def total_recomputing(self) -> float:
        return self.state + self.gathered + self.recomputed


def training_memory(config: ModelConfig, gpus: int, context: int) -> TrainingMemory:
    """What training takes on each of ``gpus`` with sequences of ``context`` tokens."""
    share = count_parameters(config).total / gpus
    return TrainingMemory(
        parameters=MASTER * share,
        gradients=GRADIENT * share,
        moments=MOMENTS * share,
        casts=CAST * share,
        gathered=CAST * _largest_layer(config) if gpus > 1 else 0,
        activations=activation_bytes(config) * context,
        recomputed=recomputed_bytes(config) * context,
    )


def least_gpus(config: ModelConfig, gpu_bytes: float, context: int, *, recompute: bool) -> int | None:
    """The fewest GPUs of ``gpu_bytes`` usable bytes that hold training; None if no number does.

    None means that one sequence's activations and one layer alone are too much: use recomputation, a shorter context,
    or split sequences or layers over GPUs.
    """
    one = training_memory(config, 1, context)
    if (one.total_recomputing if recompute else one.total) <= gpu_bytes:
        return 1
    many = training_memory(config, 2, context)
    room = gpu_bytes - many.gathered - (many.recomputed if recompute else many.activations)
    return max(2, math.ceil(one.state / room)) if room > 0 else None


def _layer_parameters(config: ModelConfig, layer: LayerShape) -> int:
    query = config.num_attention_heads * config.head_dim
    key_value = 2 * config.num_kv_heads * config.head_dim if layer.owns_kv else 0
    feed_forward = 3 * (layer.shared_size + layer.num_experts * layer.expert_size)
    return config.hidden_size * (2 * query + key_value + feed_forward)


def _largest_layer(config: ModelConfig) -> int:
    return max(_layer_parameters(config, layer) for layer in config.layers())


def _layer_activations(config: ModelConfig, layer: LayerShape) -> int:
    """Elements that one layer keeps of one token, for a GPU's fused attention and grouped experts.

    With D hidden size, Q = heads x head_dim, G = kv_heads x head_dim, F an expert's width, S the shared expert's and
    k experts a token: ``6 D + 3 Q + 3 G + 3 S + k (2 D + 3 F)``. D: input and output of both norms, and the router's
    float32 copy, worth two. Q: query before and after RoPE and norm, attention's output. G: key before and after,
    and value, in layers that own them. Experts: input and output, gate and up, their product.
    """
    hidden, query = config.hidden_size, config.num_attention_heads * config.head_dim
    key_value = 3 * config.num_kv_heads * config.head_dim if layer.owns_kv else 0
    routed = layer.top_k * (2 * hidden + 3 * layer.expert_size)
    return 6 * hidden + 3 * query + key_value + 3 * layer.shared_size + routed


def activation_bytes(config: ModelConfig) -> int:
    """Bytes of activations a token in bfloat16, all layers and the final norm; the loss keeps no logits."""
    elements = sum(_layer_activations(config, layer) for layer in config.layers()) + 2 * config.hidden_size
    return 2 * elements


def recomputed_bytes(config: ModelConfig) -> int:
    """The same if every layer keeps its input alone and one layer at a time is computed again."""
    largest = max(_layer_activations(config, layer) for layer in config.layers())
    return 2 * ((config.num_layers + 2) * config.hidden_size + largest)


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes of weights and of KV cache (a token) in one number format."""

    name: str
    weights: int
    kv_per_token: int

    def gpus(self, gpu_bytes: float, context: int) -> int:
        """The fewest GPUs that hold the weights and one sequence."""
        return math.ceil((self.weights + context * self.kv_per_token) / gpu_bytes)

    def sequences(self, gpus: int, gpu_bytes: float, context: int) -> int:
        """How many sequences of ``context`` tokens fit beside the weights on ``gpus``."""
        return max(0, math.floor((gpus * gpu_bytes - self.weights) / (context * self.kv_per_token)))


def inference_memory(config: ModelConfig) -> tuple[InferenceMemory, ...]:
    """bfloat16; int8 weights; fp8 weights and cache, as the release's FP8 model.

    Quantised are the matrices of attention and of all experts. Embedding and norms stay bfloat16, the router float32.
    """
    count = count_parameters(config)
    matrices = count.attention + count.shared + count.experts
    rest = 2 * (count.embedding + count.norms) + 4 * count.router
    return (
        InferenceMemory("bf16", 2 * matrices + rest, config.kv_bytes_per_token(2)),
        InferenceMemory("int8 weights", matrices + rest, config.kv_bytes_per_token(2)),
        InferenceMemory("fp8 weights and cache", matrices + rest, config.kv_bytes_per_token(1)),
    )
