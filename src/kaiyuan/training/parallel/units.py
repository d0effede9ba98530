"""The weights that FSDP gathers together, from a config alone: what a rank keeps of them and what it gathers.

Shards come out even or are padded: 640 rows over 256 ranks travel as 768. Tests hold this against the real program.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kaiyuan.model.config import LayerShape, ModelConfig
from kaiyuan.training.parallel.layout import Layout


@dataclass(frozen=True)
class Unit:
    """Weights that are gathered and reduced as one, on this rank: all but what other ranks of tensor or expert have."""

    ranks: int
    """Over which it is sharded."""
    own: int
    """Elements that the first rank, which has most, keeps."""
    dims: tuple[str, ...]
    """The dimensions of the mesh that these ranks span."""
    width: int = 2
    """Bytes an element in which weights travel; gradients travel in 4."""

    @property
    def gathered(self) -> int:
        """Elements, padding included."""
        return self.own * self.ranks


@dataclass(frozen=True)
class LayerUnits:
    """A layer's units. ``experts`` and ``dense`` (shared expert, norms, attention unless it is apart) come always."""

    experts: Unit
    dense: Unit
    router: Unit
    attention: Unit | None

    def __iter__(self) -> Iterator[Unit]:
        return iter([unit for unit in (self.experts, self.dense, self.router, self.attention) if unit is not None])

    @property
    def others(self) -> int:
        """Gathered elements beside the experts'."""
        return self.dense.gathered + (self.attention.gathered if self.attention else 0)


DENSE = ("shard", "context", "expert", "tensor")
HEADS = ("shard", "context", "expert")
EXPERTS = ("shard", "context", "tensor")


@lru_cache(maxsize=4096)
def layer_units(config: ModelConfig, layout: Layout, layer: LayerShape) -> LayerUnits:
    """Units of one layer (``data.shard_model``)."""
    dense, heads, experts = _ranks(layout, DENSE), _ranks(layout, HEADS), _ranks(layout, EXPERTS)
    hidden, width = config.hidden_size, layer.expert_size
    parts = (layer.num_experts // layout.expert, 2 * width, hidden), (layer.num_experts // layout.expert, hidden, width)
    taken = (0,) if layout.expert > 1 else ()
    own_experts = sum(_placed((layer.num_experts, *part[1:]), part, taken, experts) for part in parts)
    rest: list[tuple[int, ...]] = [(hidden,), (hidden,)]
    if layer.shared_size:
        rest += [(2 * layer.shared_size, hidden), (hidden, layer.shared_size)]
    attention = _attention(config, layer)
    apart = None
    if layout.tensor == 1:
        rest += [shape for shape, _ in attention]
    else:
        own = 0
        for shape, split in attention:
            part = tuple(size // layout.tensor if dim == split else size for dim, size in enumerate(shape))
            own += _placed(shape, part, () if split is None else (split,), heads)
        apart = Unit(heads, own, HEADS)
    return LayerUnits(
        experts=Unit(experts, own_experts, EXPERTS),
        dense=Unit(dense, sum(_rows(shape, dense) for shape in rest), DENSE),
        router=Unit(dense, _rows((layer.num_experts, hidden), dense), DENSE, width=4),
        attention=apart,
    )


@lru_cache(maxsize=4096)
def root_unit(config: ModelConfig, layout: Layout, first: bool, last: bool) -> Unit:
    """What belongs to no layer: embedding, final norm and head, as far as the first or last stage has them."""
    ranks, table = _ranks(layout, DENSE), (config.vocab_size, config.hidden_size)
    tied = config.tie_word_embeddings
    shapes: list[tuple[int, ...]] = [table] if first or (last and tied) else []
    if last:
        shapes += [(config.hidden_size,)] if tied else [(config.hidden_size,), table]
    return Unit(ranks, sum(_rows(shape, ranks) for shape in shapes), DENSE)


def _attention(config: ModelConfig, layer: LayerShape) -> list[tuple[tuple[int, ...], int | None]]:
    """Shapes of attention's weights, and along which dimension heads divide them."""
    hidden, query = config.hidden_size, config.num_attention_heads * config.head_dim
    key_value = config.num_kv_heads * config.head_dim
    shapes: list[tuple[tuple[int, ...], int | None]] = [((query, hidden), 0)]
    if layer.owns_kv:
        shapes += [((key_value, hidden), 0)] * 2
    shapes.append(((hidden, query), 1))
    if config.qk_norm:
        shapes += [((config.head_dim,), None)] * 2
    return shapes


def _ranks(layout: Layout, dims: Sequence[str]) -> int:
    sizes = {"shard": layout.data_shard // layout.expert, "context": layout.context, "expert": layout.expert,
             "tensor": layout.tensor}  # fmt: skip
    return math.prod(sizes[dim] for dim in dims)


def _rows(shape: Sequence[int], ranks: int) -> int:
    """Elements of the first of ``ranks`` parts along the first dimension."""
    return -(-shape[0] // ranks) * math.prod(shape[1:])


def _placed(whole: Sequence[int], part: Sequence[int], taken: Sequence[int], ranks: int) -> int:
    """Elements of the first of ``ranks`` parts of this rank's ``part`` of a weight (``data._placement``)."""
    free = [dim for dim, size in enumerate(whole) if dim not in taken and size % ranks == 0]
    return math.prod(part) // ranks if free else _rows(part, ranks)
