"""Bytes that training and inference take, from a config alone.

Training keeps, for every parameter, a float32 master copy and AdamW's two float32 moments, on one GPU also a bfloat16
copy that products read and a bfloat16 gradient; sharded, float32 gradients and casts that live as long as a product
needs them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.flops import count_parameters
from kaiyuan.scaling.step_memory import kept_bytes, largest_layer, over_the_state, working_bytes

MASTER, MOMENTS, CAST = 4, 8, 2
"""Bytes a parameter."""
USABLE = 0.9
"""The share of a GPU's memory to plan with: the rest goes to the context, communication buffers, fragmentation."""
GIB = 1024**3


def gradient_bytes(gpus: int) -> int:
    """Bytes a parameter: bfloat16 on one GPU, where they need no exchange."""
    return 2 if gpus == 1 else 4


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one GPU with the state evenly sharded over all of them, and one sequence in flight on each.

    ``gathered`` is the largest layer in bfloat16, which a sharded run holds whole while it computes it (0 on a single
    GPU). ``activations`` are what the fullest moment of a step holds beside the state: what the forward pass has kept
    and the working memory of the layer at hand, less gradients that are not there yet. ``recomputed`` is the same if
    each block keeps its input and attention's output alone and is run again in the backward pass.
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
    if gpus == 1:
        activations, recomputed = (over_the_state(config, context, what) for what in ("none", "blocks"))
    else:
        activations, recomputed = (
            kept_bytes(config, what) * context + working_bytes(config, context, what) for what in ("none", "blocks")
        )
    return TrainingMemory(
        parameters=MASTER * share,
        gradients=gradient_bytes(gpus) * share,
        moments=MOMENTS * share,
        casts=CAST * share,
        gathered=CAST * largest_layer(config) if gpus > 1 else 0,
        activations=activations,
        recomputed=recomputed,
    )


def least_gpus(config: ModelConfig, gpu_bytes: float, context: int, *, recompute: bool) -> int | None:
    """The fewest GPUs of ``gpu_bytes`` usable bytes that hold training; None if no number does.

    None means that one sequence's activations and one layer alone are too much: use recomputation, a shorter context,
    or split sequences or layers over GPUs.
    """
    one = training_memory(config, 1, context)
    if (one.total_recomputing if recompute else one.total) <= gpu_bytes:
        return 1
    two = training_memory(config, 2, context)
    room = gpu_bytes - two.gathered - (two.recomputed if recompute else two.activations)
    return max(2, math.ceil(2 * two.state / room)) if room > 0 else None


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
