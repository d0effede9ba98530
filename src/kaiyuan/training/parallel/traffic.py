"""Bytes that a layout makes each rank send, by kind of parallelism, from sizes alone.

Tests compare them with what traced and real runs send.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from kaiyuan.model.config import LayerShape, ModelConfig
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.units import Unit, layer_units, root_unit


@lru_cache(maxsize=1024)
def _stage(config: ModelConfig, layout: Layout, stage: int) -> tuple[list[LayerShape], list[tuple[LayerShape, int]]]:
    first: dict[LayerShape, LayerShape] = {}
    alike = [first.setdefault(replace(layer, index=0, producer=0), layer) for layer in config.layers()]
    chunks = layout.chunks(config.num_layers, config.cla_share_factor, stage)
    layers = [alike[index] for chunk in chunks for index in chunk]
    return layers, list(Counter(layers).items())


@dataclass(frozen=True)
class Work:
    """A step: what is trained, how it is divided, and in which parts."""

    config: ModelConfig
    layout: Layout
    rows: int
    """Sequences of a step, in all."""
    length: int
    micro_batches: int = 1
    recompute: str = "none"
    dropless: bool = False

    @property
    def tokens(self) -> int:
        """Of one rank in one micro-batch."""
        ranks = self.layout.size // self.layout.pipeline
        return self.rows * self.length // self.micro_batches // ranks

    def layers(self, stage: int) -> list[LayerShape]:
        """The layers of a pipeline rank, each by the first of the model that is like it."""
        return _stage(self.config, self.layout, stage)[0]

    def telling_ranks(self) -> list[int]:
        """The ranks of the pipeline of which one is the slowest or fullest: its ends, and of those between the first
        with most layers.
        """
        last = self.layout.pipeline - 1
        between = sorted(range(1, last), key=lambda rank: -len(self.layers(rank)))
        return sorted({0, *between[:1], last})

    def counted(self, stage: int) -> list[tuple[LayerShape, int]]:
        """The same, each once, with their number."""
        return _stage(self.config, self.layout, stage)[1]

    def root(self, stage: int) -> Unit:
        return root_unit(self.config, self.layout, stage == 0, stage == self.layout.pipeline - 1)


class Sent(NamedTuple):
    """One kind of collective of a step on one rank."""

    kind: str
    dims: tuple[str, ...]
    """Of the mesh: the ranks that take part."""
    calls: float
    sent: float
    """Bytes that the rank sends to others, by a ring where it is one."""


def traffic(work: Work, stage: int = 0) -> list[Sent]:
    """What a rank of ``stage`` sends in a step, but for a few bytes of losses, norms and statistics.

    ``weights`` and ``gradients``: FSDP's; ``replicas``: HSDP's sums. ``experts``: tokens to their experts and back, and
    their gradients, if loads are even. ``routing``: the router's probabilities and the counts. ``tensor``: sequences
    and sums around attention. ``context``: keys and values of the layers that own them. ``pipeline``: activations and
    their gradients between stages; ``tied``: the gradient of an embedding that two stages have. Layers that are
    computed again send again what their forward pass sends.
    """
    return [sent for sent in (*_state(work, stage), *_activations(work, stage)) if sent.sent]


def total(found: Sequence[Sent]) -> dict[str, float]:
    """Bytes by kind."""
    return {
        kind: sum(sent.sent for sent in found if sent.kind == kind) for kind in dict.fromkeys(s.kind for s in found)
    }


def _state(work: Work, stage: int) -> Iterator[Sent]:
    layout = work.layout
    staged = layout.pipeline > 1
    units = [
        (unit, 1 if staged else 2, count)
        for layer, count in work.counted(stage)
        for unit in layer_units(work.config, layout, layer)
    ]
    units.append((work.root(stage), 1, 1))
    copies = layout.data_replicate
    for unit, passes, count in units:
        times = count * (1 if staged else work.micro_batches)
        others = unit.gathered - unit.own
        yield Sent("weights", unit.dims, passes * times, passes * times * unit.width * others)
        yield Sent("gradients", unit.dims, times, times * 4 * others)
        yield Sent("replicas", ("replicate",), times, times * 8 * unit.own * (copies - 1) / copies)
    if staged and work.config.tie_word_embeddings and stage in (0, layout.pipeline - 1):
        yield Sent("tied", ("pipeline",), 1, 4 * work.root(0).own)


def _activations(work: Work, stage: int) -> Iterator[Sent]:
    config, layout, tokens = work.config, work.layout, work.tokens
    hidden, ranks, parts = 2 * config.hidden_size, layout.size // layout.pipeline, work.micro_batches
    again = 1 if work.recompute == "blocks" else 0
    whole = tokens * layout.tensor
    key_value = 2 * 2 * config.num_kv_heads * config.head_dim // layout.tensor
    for layer, count in work.counted(stage):
        forward, both = count * parts * (1 + again), count * parts * (2 + again)
        away = (layout.expert - 1) / layout.expert
        yield Sent("experts", ("expert",), 2 * both, 2 * both * tokens * layer.top_k * hidden * away)
        counts = 8 * layer.num_experts * away
        yield Sent("routing", ("expert",), forward, forward * counts)
        if layout.decide == "globally" and work.dropless:
            yield Sent(
                "routing", TOKENS, 3 * forward, forward * 2 * 4 * (2 * layer.num_experts + 1) * (ranks - 1) / ranks
            )
        elif layout.decide == "globally":
            yield Sent("routing", TOKENS, forward, forward * tokens * (ranks - 1) * layer.num_experts * 4)
        yield Sent("tensor", ("tensor",), 2 * both, 2 * both * whole * hidden * (layout.tensor - 1) / layout.tensor)
        if layer.owns_kv:
            yield Sent("context", ("context",), both, both * whole * key_value * (layout.context - 1))
    neighbours = 2 * layout.pipeline_chunks - (stage == 0) - (stage == layout.pipeline - 1)
    yield Sent("pipeline", ("pipeline",), neighbours * parts, neighbours * parts * tokens * hidden)


TOKENS = ("replicate", "shard", "context", "expert", "tensor")
"""The ranks that together hold all tokens of a micro-batch."""
