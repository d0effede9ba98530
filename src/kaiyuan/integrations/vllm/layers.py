"""The layers of the model, each built from vLLM's own, which are sharded over ranks and run its kernels.

Only what a layer computes is said here. The first layer of a sharing group owns the group's KV cache; it holds the
normalised keys *without* gain, and every layer's key gain is folded into the gain of its query (``weights.Gains``), so
one cache is exact for the whole group (``model/attention.py`` has the algebra).

Shapes: T tokens of all sequences, D hidden size, H query heads and G key/value heads of this rank, d head dimension.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from kaiyuan.model.config import LayerShape, ModelConfig

if find_spec("vllm"):
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.fused_moe import FusedMoEFactory
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.linear import (
        ColumnParallelLinear,
        MergedColumnParallelLinear,
        QKVParallelLinear,
        ReplicatedLinear,
        RowParallelLinear,
    )
    from vllm.model_executor.layers.rotary_embedding import get_rope

KeyValue = tuple[Tensor, Tensor]
"""Keys (rotated, normalised, without gain) and values of the newest tokens, each (T, G * d)."""


class CrossLayerAttention(nn.Module):
    """Grouped-query attention whose layer either owns a KV cache or reads that of its group's first layer."""

    def __init__(self, config: ModelConfig, layer: LayerShape, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        self.owns_kv, self.head_dim = layer.owns_kv, config.head_dim
        heads, width = config.num_attention_heads, config.num_attention_heads * config.head_dim
        options: dict[str, Any] = {"bias": False, "quant_config": vllm_config.quant_config, "return_bias": False}
        self.heads, self.kv_heads = _heads_of_rank(config)
        if layer.owns_kv:
            self.qkv_proj = QKVParallelLinear(
                config.hidden_size, config.head_dim, heads, config.num_kv_heads, prefix=f"{prefix}.qkv_proj", **options
            )
        else:
            self.q_proj = ColumnParallelLinear(config.hidden_size, width, prefix=f"{prefix}.q_proj", **options)
        self.o_proj = RowParallelLinear(width, config.hidden_size, prefix=f"{prefix}.o_proj", **options)
        self.rotary = _rotary(config, vllm_config.model_config.max_model_len)
        self.query_layernorm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.key_normalise = RMSNorm(config.head_dim, config.norm_eps, has_weight=False) if config.qk_norm else None
        producer = prefix.replace(f"layers.{layer.index}.", f"layers.{layer.producer}.")
        self.attn = Attention(
            self.heads,
            config.head_dim,
            config.head_dim**-0.5,
            num_kv_heads=self.kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.attn",
            kv_sharing_target_layer_name=None if layer.owns_kv else f"{producer}.attn",
        )

    def forward(self, positions_T: Tensor, x_TD: Tensor, shared: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """(T, D) to (T, D), and the keys and values for the next layers of the group."""
        if self.owns_kv:
            q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
            q, k, v = self.qkv_proj(x_TD).split([q_width, kv_width, kv_width], dim=-1)
            q, k = self.rotary(positions_T, q, k)
            shared = (self._per_head(self.key_normalise, k), v)
        else:
            q, _ = self.rotary(positions_T, self.q_proj(x_TD), None)
        assert shared is not None, "a layer without keys and values needs those of its producer"
        # with a sharing target vLLM writes nothing and reads the target's cache; the keys given are for its checks
        return self.o_proj(self.attn(self._per_head(self.query_layernorm, q), *shared)), shared

    def _per_head(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        return x if norm is None else norm(x.unflatten(-1, (-1, self.head_dim)).contiguous()).flatten(-2)


def _heads_of_rank(config: ModelConfig) -> tuple[int, int]:
    """Query and key/value heads of one tensor-parallel rank; ranks that outnumber key/value heads repeat them."""
    from vllm.distributed import get_tensor_model_parallel_world_size

    ranks = get_tensor_model_parallel_world_size()
    return config.num_attention_heads // ranks, max(1, config.num_kv_heads // ranks)


def _rotary(config: ModelConfig, max_model_len: int) -> nn.Module:
    """RoPE with the NTK factor already in its base. vLLM returns the same object, with one table, to all layers."""
    return get_rope(
        config.head_dim,
        max_position=max(config.max_position_embeddings, max_model_len),
        is_neox_style=True,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
    )


class SharedExpert(nn.Module):
    """The expert that every token passes through; its output is a rank's part of the sum over ranks."""

    def __init__(self, hidden_size: int, width: int, quant_config: Any, prefix: str) -> None:
        super().__init__()
        options: dict[str, Any] = {"bias": False, "quant_config": quant_config, "return_bias": False}
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden_size, [width, width], prefix=f"{prefix}.gate_up_proj", **options
        )
        # the sum over ranks is taken once, together with that of the specialised experts
        self.down_proj = RowParallelLinear(
            width, hidden_size, reduce_results=False, prefix=f"{prefix}.down_proj", **options
        )
        self.act = SiluAndMul()

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_up_proj(x_TD)))


class MoE(nn.Module):
    """The shared expert on every token, unscaled, plus ``top_k`` specialised experts weighted by their probability."""

    def __init__(self, config: ModelConfig, layer: LayerShape, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        quant_config = vllm_config.quant_config
        self.gate = ReplicatedLinear(
            config.hidden_size,
            layer.num_experts,
            bias=False,
            return_bias=False,
            params_dtype=torch.float32,  # rounding a router's weights sends tokens to other experts
            prefix=f"{prefix}.gate",
        )
        self.shared_mlp = None
        if layer.shared_size:
            self.shared_mlp = SharedExpert(config.hidden_size, layer.shared_size, quant_config, f"{prefix}.shared_mlp")
        self.experts = FusedMoEFactory(
            num_experts=layer.num_experts,
            top_k=layer.top_k,
            hidden_size=config.hidden_size,
            intermediate_size=layer.expert_size,
            scoring_func="softmax",
            renormalize=config.renormalizes(layer.top_k),
            router_logits_dtype=torch.float32,
            quant_config=quant_config,
            shared_experts=self.shared_mlp,
            prefix=f"{prefix}.experts",
        )

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.experts(hidden_states=x_TD, router_logits=self.gate(x_TD.float()))


class Block(nn.Module):
    """A pre-norm decoder block. vLLM's norms add to the residual stream themselves, which saves a pass over it."""

    def __init__(self, config: ModelConfig, layer: LayerShape, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = CrossLayerAttention(config, layer, vllm_config, f"{prefix}.self_attn")
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MoE(config, layer, vllm_config, f"{prefix}.mlp")

    def forward(
        self, positions_T: Tensor, x_TD: Tensor, residual_TD: Tensor | None, shared: KeyValue | None
    ) -> tuple[Tensor, Tensor, KeyValue]:
        """What to add to the residual stream next, the stream so far, and keys and values to share."""
        if residual_TD is None:
            residual_TD, x_TD = x_TD, self.input_layernorm(x_TD)
        else:
            x_TD, residual_TD = self.input_layernorm(x_TD, residual_TD)
        x_TD, shared = self.self_attn(positions_T, x_TD, shared)
        x_TD, residual_TD = self.post_attention_layernorm(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD, shared
