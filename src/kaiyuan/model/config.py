"""What a model of the Hunyuan-Large kind is: one strict, frozen description that every other part reads.

The numbers that follow from a description alone (parameters, FLOPs, bytes of KV cache) are in ``flops.py`` and
reachable from here, so nobody has to build 389 billion parameters to learn what they would cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError, model_validator

from kaiyuan.errors import ConfigError, listing
from kaiyuan.settings import Settings, problems_of

if TYPE_CHECKING:
    from kaiyuan.model.flops import Flops, KVBytes, ParameterCount

PerLayer = int | tuple[int, ...]


@dataclass(frozen=True)
class LayerShape:
    """What one layer is made of, after every per-layer setting has been looked up."""

    index: int
    owns_kv: bool
    """Whether the layer projects its own keys and values; the others of its group read those of the group's first."""
    producer: int
    """Index of the layer whose keys and values this one attends to (itself if ``owns_kv``)."""
    num_experts: int
    top_k: int
    expert_size: int
    """Width of one specialised expert."""
    shared_size: int
    """Width of the shared expert (``num_shared_experts`` times ``intermediate_size``; 0 without one)."""


class ModelConfig(Settings):
    """A decoder-only mixture-of-experts Transformer; the defaults are Hunyuan-Large's choices where size plays no part.

    ``num_experts``, ``top_k``, ``num_shared_experts`` and ``moe_intermediate_size`` are one number for all layers or
    one a layer. Unknown keys and impossible values raise one ``ConfigError`` that lists all of them.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    """Width of the shared expert, and of each specialised expert unless ``moe_intermediate_size`` says otherwise."""
    moe_intermediate_size: PerLayer | None = None
    num_experts: PerLayer = 16
    num_shared_experts: PerLayer = 1
    top_k: PerLayer = 1
    renormalize: bool | None = None
    """Whether the k chosen probabilities are scaled to sum to 1. Left out: only for k > 1, as the original does
    (a renormalised top-1 weight would always be 1, and the router would get no gradient)."""
    cla_share_factor: int = 2
    """Layers that share one set of keys and values (cross-layer attention, paper 2.2.2); 1 turns sharing off."""
    qk_norm: bool = True
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_alpha: float | None = None
    """NTK factor: the base becomes ``theta * alpha ** (d / (d - 2))`` at every length."""
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    init_std: float = 0.02

    def __init__(self, **values: Any) -> None:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(listing("the model config cannot be used", problems_of(error))) from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*self._size_problems(), *self._layer_problems()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _size_problems(self) -> list[str]:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "num_kv_heads", "head_dim",
                 "intermediate_size", "cla_share_factor", "max_position_embeddings")  # fmt: skip
        problems = [f"{name}: {getattr(self, name)} is not a size of 1 to 100,000,000"
                    for name in sizes if not 1 <= getattr(self, name) <= 100_000_000]  # fmt: skip
        if self.num_kv_heads >= 1 and self.num_attention_heads % self.num_kv_heads:
            problems.append(f"num_attention_heads: {self.num_attention_heads} is not a multiple of "
                            f"num_kv_heads {self.num_kv_heads}")  # fmt: skip
        if self.head_dim % 2 or self.head_dim == 2:
            problems.append(f"head_dim: {self.head_dim} is not an even number of at least 4, which RoPE needs")
        for name, low, high in (("norm_eps", 0.0, 1.0), ("rope_theta", 1.0, 1e15), ("init_std", 0.0, 10.0)):
            if not low < getattr(self, name) < high:
                problems.append(f"{name}: {getattr(self, name)} is not between {low:g} and {high:g}")
        if self.rope_alpha is not None and not 0 < self.rope_alpha < 1e15:
            problems.append(f"rope_alpha: {self.rope_alpha} is not a positive number")
        return problems

    def _layer_problems(self) -> list[str]:
        problems = []
        for name, low in (("num_experts", 1), ("top_k", 1), ("num_shared_experts", 0), ("moe_intermediate_size", 1)):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) and len(value) != self.num_layers:
                problems.append(f"{name}: {len(value)} values for {self.num_layers} layers")
            if any(item is not None and not low <= item <= 100_000_000 for item in values):
                problems.append(f"{name}: {value} is under {low}")
        if not problems and 1 <= self.num_layers <= 100_000:
            worst = [i for i in range(self.num_layers) if self._at("top_k", i) > self._at("num_experts", i)]
            if worst:
                problems.append(f"top_k: layer {worst[0]} chooses {self._at('top_k', worst[0])} of only "
                                f"{self._at('num_experts', worst[0])} experts")  # fmt: skip
        return problems

    def _at(self, name: str, index: int) -> int:
        value = getattr(self, name)
        return value[index] if isinstance(value, tuple) else value

    def layer(self, index: int) -> LayerShape:
        """What layer ``index`` is made of."""
        producer = index - index % self.cla_share_factor
        moe_size = (
            self.intermediate_size if self.moe_intermediate_size is None else self._at("moe_intermediate_size", index)
        )
        return LayerShape(
            index=index,
            owns_kv=producer == index,
            producer=producer,
            num_experts=self._at("num_experts", index),
            top_k=self._at("top_k", index),
            expert_size=moe_size,
            shared_size=self._at("num_shared_experts", index) * self.intermediate_size,
        )

    def layers(self) -> list[LayerShape]:
        return [self.layer(index) for index in range(self.num_layers)]

    def renormalizes(self, top_k: int) -> bool:
        """Whether a layer that chooses ``top_k`` experts scales their probabilities to sum to 1."""
        return top_k > 1 if self.renormalize is None else self.renormalize

    @property
    def rope_base(self) -> float:
        """The base that RoPE really uses, NTK factor included."""
        if self.rope_alpha is None:
            return self.rope_theta
        return self.rope_theta * self.rope_alpha ** (self.head_dim / (self.head_dim - 2))

    def replace(self, **values: Any) -> ModelConfig:
        """A copy with some values changed, checked like a new one."""
        return ModelConfig(**{**self.model_dump(), **values})

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """A model of known size (``presets.names()`` lists them), with ``overrides`` on top."""
        from kaiyuan.model.presets import preset

        return preset(name, **overrides)

    def parameters(self) -> ParameterCount:
        """Parameters in total, active per token, and by part."""
        from kaiyuan.model.flops import count_parameters

        return count_parameters(self)

    def kv_bytes_per_token(self, bytes_per_element: int = 2) -> int:
        """Bytes of KV cache that one token takes (paper, table 2): keys and values of the producing layers only."""
        return self.kv_bytes(bytes_per_element).ours

    def kv_bytes(self, bytes_per_element: int = 2) -> KVBytes:
        """The same, beside what MHA, MQA, GQA and CLA alone would take."""
        from kaiyuan.model.flops import kv_bytes

        return kv_bytes(self, bytes_per_element)

    def flops(self, context: int) -> Flops:
        """Floating-point operations a token costs at a given context length."""
        from kaiyuan.model.flops import count_flops

        return count_flops(self, context)
