"""Bytes on one GPU of a layout, by part, at the fullest moment of a step: what the real program holds when it is traced
(``training/parallel/trace.py``), from the config alone.

Letters as in ``step_memory.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from kaiyuan.model.config import LayerShape
from kaiyuan.scaling.step_memory import BLOCK_LOGITS, Recompute, kept_elements, working_elements
from kaiyuan.training.parallel.traffic import Work
from kaiyuan.training.parallel.units import LayerUnits, layer_units


@dataclass(frozen=True)
class LayoutMemory:
    """Bytes on the fullest GPU, and which rank of the pipeline it is on."""

    stage: int
    parameters: float
    """This rank's part of the weights, float32."""
    moments: float
    gradients: float
    """Of this rank's part; with a pipeline those of the whole stage, waiting for the last micro-batch; float32."""
    gathered: float
    """Weights that are whole while they are computed with, bfloat16."""
    activations: float
    """Kept for the backward pass, and the loss's or a layer's working memory."""
    buffers: float
    """What FSDP sends and receives, and the routing of all tokens."""

    @property
    def total(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "stage"}


def layout_memory(work: Work) -> LayoutMemory:
    """The fullest rank of the pipeline: the first has most micro-batches in flight, the last has the loss."""
    return max((_stage_memory(work, rank) for rank in work.telling_ranks()), key=lambda memory: memory.total)


def _stage_memory(work: Work, stage: int) -> LayoutMemory:
    shape = _Shape.of(work, stage)
    own = sum(unit.own for units, _, _ in shape.layers for unit in units) + shape.root_own
    moment = _whole_stage(work, stage, shape) if work.layout.pipeline > 1 else _layer_by_layer(work, shape, own)
    return LayoutMemory(stage, 4 * own, 8 * own, *moment)


@dataclass(frozen=True)
class _Shape:
    """A rank of the pipeline: units, kept and working bytes of each layer; elements of the root, kept and gathered;
    bytes that the last layer holds when it routes.
    """

    layers: list[tuple[LayerUnits, float, float]]
    root_own: int
    root: int
    until_routing: float
    loss: bool

    @classmethod
    def of(cls, work: Work, stage: int) -> _Shape:
        root = work.root(stage)
        known = {}
        for layer, _ in work.counted(stage):
            units = layer_units(work.config, work.layout, layer)
            known[layer] = (units, kept_bytes(work, layer) * work.tokens, _working(work, layer))
        layers = [known[layer] for layer in work.layers(stage)]
        until_routing = _until_routing(work, work.layers(stage)[-1])
        return cls(layers, root.own, root.gathered, until_routing, stage == work.layout.pipeline - 1)


def kept_bytes(work: Work, layer: LayerShape) -> float:
    """Bytes a token of a rank that one layer's forward pass keeps.

    Beside what one GPU keeps: with ``tensor`` the whole sequence before attention, with ``expert`` the rows that came
    and what was made of those that went, with ``context`` the keys and values of the whole sequence, and attention's
    output by chunks beside the whole of it.
    """
    config, layout = work.config, work.layout
    recompute = cast(Recompute, work.recompute)
    elements: float = kept_elements(config, layer, recompute)
    key_value = config.num_kv_heads * config.head_dim if layer.owns_kv else 0
    if layout.context > 1 and (recompute != "blocks" or config.cla_share_factor > 1):
        elements += 2 * key_value * layout.context
    if recompute != "blocks":
        elements += (layout.tensor - 1) * config.hidden_size
        if layout.expert > 1:
            elements += 2 * layer.top_k * config.hidden_size
        if layout.context > 1:
            elements += config.num_attention_heads * config.head_dim
    return 2 * elements


def _until_routing(work: Work, layer: LayerShape) -> float:
    """Bytes that a layer's forward pass holds when it decides about all tokens: attention's and the shared expert's."""
    elements = kept_bytes(replace(work, recompute="experts"), layer) / 2
    if work.layout.expert > 1:
        elements -= 2 * layer.top_k * work.config.hidden_size
    if work.recompute != "experts":
        elements += 3 * layer.shared_size
    return 2 * elements * work.tokens


def _working(work: Work, layer: LayerShape) -> float:
    """Bytes of a layer's backward pass beside what is kept, gradients of the residual stream among them."""
    elements = working_elements(work.config, layer, cast(Recompute, work.recompute)) + 4 * work.config.hidden_size
    if work.recompute == "blocks" and work.layout.expert > 1:
        elements += 2 * layer.top_k * work.config.hidden_size
    return 2 * elements * work.tokens


def _loss(work: Work) -> float:
    words, hidden = work.config.vocab_size, work.config.hidden_size
    return 2 * min(BLOCK_LOGITS, words * work.tokens) + 2 * hidden * work.tokens + 6 * words * hidden


def _routing(work: Work) -> float:
    """Probabilities of all tokens, twice, and some twelve numbers of 8 bytes for each assignment."""
    if work.layout.decide != "globally" or work.dropless:
        return 0
    tokens = work.tokens * work.layout.size // work.layout.pipeline
    return tokens * max(8 * layer.num_experts + 96 * layer.top_k for layer, _ in work.counted(0))


def _layer_by_layer(work: Work, shape: _Shape, own: float) -> tuple[float, float, float, float]:
    """Gradients, gathered, activations, buffers at the fullest moment: the loss's, or some layer's backward pass, where
    the weights of it and of the one before are whole, its gradients are on their way, and those of later layers have
    come.
    """
    before = 4 * own if work.micro_batches > 1 else 0.0
    kept, arrived, root = sum(kept for _, kept, _ in shape.layers), 0.0, shape.root
    last, last_kept, _ = shape.layers[-1]
    found = [
        (before, 2.0 * (root + last.others), kept + _loss(work), 0.0),
        (before, 2.0 * (root + last.others), kept - last_kept + shape.until_routing, _routing(work)),
    ]
    for number, (units, own_kept, working) in enumerate(reversed(shape.layers)):
        experts, others = units.experts.gathered, units.others
        gradients = (before or arrived) + 2.0 * root
        if number:
            found.append((gradients, 2.0 * (root + experts + others), kept, 4.0 * (experts + others)))
        inside = 4.0 * experts + 2.0 * max(experts, others)
        found.append((gradients, 2.0 * (root + experts + others), kept + working, inside))
        if work.recompute == "blocks":
            found.append((gradients, 2.0 * (root + others), kept + shape.until_routing, _routing(work)))
        kept -= own_kept
        arrived += 4 * sum(unit.own for unit in units)
    return max(found, key=sum)


def in_flight(work: Work, rank: int) -> float:
    """Micro-batches that a rank of the pipeline holds activations of at most; those of one of its v chunks of layers
    count as 1 / v. Interleaved, a rank starts all chunks and two more for each rank behind it before the first
    backward pass.
    """
    ranks, chunks, parts = work.layout.pipeline, work.layout.pipeline_chunks, work.micro_batches
    if chunks == 1:
        return min(ranks - rank, parts)
    return min((chunks - 1) * ranks + 2 * (ranks - 1 - rank) + 1, chunks * parts) / chunks


def _whole_stage(work: Work, stage: int, shape: _Shape) -> tuple[float, float, float, float]:
    """The same where a stage's weights and gradients stay whole over a step, and micro-batches are in flight."""
    gathered = shape.root + sum(units.experts.gathered + units.others for units, _, _ in shape.layers)
    flying = in_flight(work, stage)
    kept = flying * sum(kept for _, kept, _ in shape.layers)
    kept += 4 * work.config.hidden_size * work.tokens * flying * work.layout.pipeline_chunks
    working = max(working for _, _, working in shape.layers)
    largest = max(units.experts.gathered for units, _, _ in shape.layers)
    backward = (4.0 * gathered, 2.0 * gathered, kept + working, 2.0 * largest)
    forward = kept - shape.layers[-1][1] * (work.recompute != "blocks") + shape.until_routing
    routes = (4.0 * gathered, 2.0 * gathered, forward, _routing(work))
    reduced = (
        4.0 * gathered,
        2.0 * gathered,
        0.0,
        8.0 * max(largest, max(units.others for units, _, _ in shape.layers)),
    )
    found = [backward, routes, reduced]
    if shape.loss:
        found.append((4.0 * gathered, 2.0 * gathered, kept + _loss(work), 0.0))
    return max(found, key=sum)
