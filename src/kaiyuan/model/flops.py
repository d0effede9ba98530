"""What a model costs, from its config alone: parameters, floating-point operations, bytes of KV cache.

Two FLOPs a multiply-add; the backward pass costs twice the forward pass (gradients of inputs and of weights).
"""

from __future__ import annotations

from dataclasses import dataclass

from kaiyuan.model.config import LayerShape, ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. ``active`` is what one token passes through; embedding and head count once if tied."""

    embedding: int
    attention: int
    norms: int
    router: int
    shared: int
    experts: int
    active_experts: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.norms + self.router + self.shared + self.experts

    @property
    def active(self) -> int:
        return self.total - self.experts + self.active_experts

    @property
    def active_without_embedding(self) -> int:
        return self.active - self.embedding


@dataclass(frozen=True)
class KVBytes:
    """Bytes of KV cache one token takes under each scheme of the paper's table 2."""

    mha: int
    gqa: int
    mqa: int
    cla: int
    ours: int

    @property
    def share_of_mha(self) -> float:
        return self.ours / self.mha


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token; ``forward`` includes attention over a full causal context and the head."""

    matmul_forward: int
    attention_forward: int

    @property
    def forward(self) -> int:
        return self.matmul_forward + self.attention_forward

    @property
    def training(self) -> int:
        return 3 * self.forward


def attention_parameters(config: ModelConfig, layer: LayerShape) -> int:
    """Parameters of one layer's projections."""
    query = config.num_attention_heads * config.head_dim
    key_value = 2 * config.num_kv_heads * config.head_dim if layer.owns_kv else 0
    return config.hidden_size * (2 * query + key_value)


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Parameters by part; equals what building the model would allocate (tested)."""
    layers = config.layers()
    copies = 1 if config.tie_word_embeddings else 2
    head_norms = 2 * config.head_dim if config.qk_norm else 0
    return ParameterCount(
        embedding=copies * config.vocab_size * config.hidden_size,
        attention=sum(attention_parameters(config, layer) for layer in layers),
        norms=config.num_layers * (2 * config.hidden_size + head_norms) + config.hidden_size,
        router=sum(layer.num_experts * config.hidden_size for layer in layers),
        shared=sum(3 * layer.shared_size * config.hidden_size for layer in layers),
        experts=sum(3 * layer.num_experts * layer.expert_size * config.hidden_size for layer in layers),
        active_experts=sum(3 * layer.top_k * layer.expert_size * config.hidden_size for layer in layers),
    )


def count_flops(config: ModelConfig, context: int) -> Flops:
    """FLOPs of one token in a causal sequence of ``context`` tokens (on average it sees half of them)."""
    count = count_parameters(config)
    head = config.vocab_size * config.hidden_size
    weights = count.attention + count.router + count.shared + count.active_experts + head
    scores = config.num_layers * config.num_attention_heads * config.head_dim * 2
    return Flops(matmul_forward=2 * weights, attention_forward=2 * scores * (context + 1) // 2)


def kv_bytes(config: ModelConfig, bytes_per_element: int = 2) -> KVBytes:
    """Bytes per token by the formulas of the paper's table 2 (there with 2 bytes an element and CLA over pairs)."""
    one_head = 2 * config.head_dim * bytes_per_element
    layers = config.num_layers
    producers = sum(layer.owns_kv for layer in config.layers())
    return KVBytes(
        mha=one_head * config.num_attention_heads * layers,
        gqa=one_head * config.num_kv_heads * layers,
        mqa=one_head * layers,
        cla=one_head * config.num_attention_heads * producers,
        ours=one_head * config.num_kv_heads * producers,
    )
