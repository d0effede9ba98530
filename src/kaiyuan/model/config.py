"""What a model of the Hunyuan-Large kind is: one strict, frozen description that every other part reads.

The numbers that follow from a description alone (parameters, FLOPs, bytes of KV cache) are in ``flops.py`` and
reachable from here, so nobody has to build 389 billion parameters to learn what they would cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, ValidationError, model_validator

from kaiyuan.errors import ConfigError, listing
from kaiyuan.settings import Settings, problems_of

if TYPE_CHECKING:
    from kaiyuan.model.flops import Flops, KVBytes, ParameterCount

PerLayer = int | tuple[int, ...]
_MOST = 100_000_000


def _size(value: int) -> int:
    if not 1 <= value <= _MOST:
        raise ValueError(f"{value} is not a size of 1 to {_MOST:,}")
    return value


def _per_layer(low: int) -> AfterValidator:
    def check(value: PerLayer) -> PerLayer:
        values = value if isinstance(value, tuple) else (value,)
        if any(item < low for item in values):
            raise ValueError(f"{value} is under {low}")
        if any(item > _MOST for item in values):
            raise ValueError(f"{value} is over {_MOST:,}")
        return value

    return AfterValidator(check)


def _between(low: float, high: float) -> AfterValidator:
    def check(value: float) -> float:
        if not low < value < high:
            raise ValueError(f"{value} is not between {low:g} and {high:g}")
        return value

    return AfterValidator(check)


def _even(value: int) -> int:
    if value % 2 or value < 4:
        raise ValueError(f"{value} is not an even number of at least 4, which RoPE needs")
    return value


def _alpha(value: float) -> float:
    if not 0 < value < 1e15:
        raise ValueError(f"{value} is not a positive number")
    return value


Size = Annotated[int, AfterValidator(_size)]


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

    vocab_size: Size
    hidden_size: Size
    num_layers: Size
    num_attention_heads: Size
    num_kv_heads: Size
    head_dim: Annotated[Size, AfterValidator(_even)]
    intermediate_size: Size
    """Width of the shared expert, and of each specialised expert unless ``moe_intermediate_size`` says otherwise."""
    moe_intermediate_size: Annotated[PerLayer, _per_layer(1)] | None = None
    num_experts: Annotated[PerLayer, _per_layer(1)] = 16
    num_shared_experts: Annotated[PerLayer, _per_layer(0)] = 1
    top_k: Annotated[PerLayer, _per_layer(1)] = 1
    renormalize: bool | None = None
    """Whether the k chosen probabilities are scaled to sum to 1. Left out: only for k > 1, as the original does
    (a renormalised top-1 weight would always be 1, and the router would get no gradient)."""
    cla_share_factor: Size = 2
    """Layers that share one set of keys and values (cross-layer attention, paper 2.2.2); 1 turns sharing off."""
    qk_norm: bool = True
    norm_eps: Annotated[float, _between(0, 1)] = 1e-5
    rope_theta: Annotated[float, _between(1, 1e15)] = 10_000.0
    rope_alpha: Annotated[float, AfterValidator(_alpha)] | None = None
    """NTK factor: the base becomes ``theta * alpha ** (d / (d - 2))`` at every length."""
    max_position_embeddings: Size = 4096
    tie_word_embeddings: bool = True
    init_std: Annotated[float, _between(0, 10)] = 0.02

    def __init__(self, **values: Any) -> None:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(listing("the model config cannot be used", problems_of(error))) from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        """What no value shows alone; pydantic comes here only when every single value is possible."""
        problems = []
        if self.num_attention_heads % self.num_kv_heads:
            problems.append(f"num_attention_heads: {self.num_attention_heads} is not a multiple of "
                            f"num_kv_heads {self.num_kv_heads}")  # fmt: skip
        lengths = [f"{name}: {len(value)} values for {self.num_layers} layers"
                   for name in ("num_experts", "top_k", "num_shared_experts", "moe_intermediate_size")
                   if isinstance(value := getattr(self, name), tuple) and len(value) != self.num_layers]  # fmt: skip
        if not lengths:
            problems += self._too_few_experts()
        if problems or lengths:
            raise ValueError("\n".join([*problems, *lengths]))
        return self

    def _too_few_experts(self) -> list[str]:
        alike = isinstance(self.num_experts, int) and isinstance(self.top_k, int)
        for index in range(1 if alike else self.num_layers):
            top_k, experts = self._at("top_k", index), self._at("num_experts", index)
            if top_k > experts:
                return [f"top_k: layer {index} chooses {top_k} of only {experts} experts"]
        return []

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
