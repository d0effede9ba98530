"""What a layout costs each rank, before any GPU is paid for: bytes of state, and bytes of each kind of collective.

State is read off the real program: the model is built on the meta device and divided by the very code that trains, in a
process group that only pretends to have so many ranks. Bytes received are counted from the sizes of what is sent; the
tests compare them with what the collectives of a real run carried.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.parallel import Parallel

STATE = 16
"""Bytes a parameter: float32 weight, gradient and two moments."""


@dataclass(frozen=True)
class RankState:
    """What one rank keeps of a model."""

    parameters: int
    """Elements of this rank's parts."""
    largest: int
    """Elements of the largest block's weights, which the rank gathers to compute it."""

    @property
    def state_bytes(self) -> int:
        return STATE * self.parameters


def pretend(world: int, rank: int = 0) -> None:
    """Make a process group of ``world`` ranks that does nothing. The process can have no other."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())


def rank_state(config: ModelConfig, layout: Layout, dtype: torch.dtype = torch.bfloat16) -> RankState:
    """What this rank would keep. Needs a process group of ``layout.size`` ranks, such as ``pretend`` makes."""
    with torch.device("meta"):
        model = Transformer(config, dtype)
    Parallel(layout, torch.device("cpu")).divide(model)
    blocks = [sum(_gathered(weight) for weight in block.parameters()) for block in model.layers]
    return RankState(sum(_own(weight) for weight in model.parameters()), max(blocks))


def _own(weight: torch.Tensor) -> int:
    assert isinstance(weight, DTensor)
    return weight.to_local().numel()


def _gathered(weight: torch.Tensor) -> int:
    """Elements of ``weight`` that a rank computes with: all but what other ranks of tensor or expert have."""
    assert isinstance(weight, DTensor)
    names = weight.device_mesh.mesh_dim_names or ()
    parts = 1
    for name, size, place in zip(names, weight.device_mesh.shape, weight.placements, strict=True):
        parts *= size if name in ("expert", "tensor") and place.is_shard() else 1
    return weight.numel() // parts


def traffic(config: ModelConfig, layout: Layout, rows: int, length: int, width: int = 2) -> dict[str, float]:
    """Bytes that a rank receives in a step of one micro-batch of ``rows`` sequences in all, by kind, first layers of a
    pipeline included alike. ``width`` is the bytes of an activation.

    ``experts``: tokens to their experts and back, and their gradients, if loads are even. ``routing``: the router's
    probabilities. ``tensor``: sequences and sums around attention. ``context``: keys and values of the layers that
    own them. ``pipeline``: activations between two stages.
    """
    ranks = layout.size // layout.pipeline
    tokens = rows * length // ranks
    hidden, layers = config.hidden_size * width, [config.layer(index) for index in range(config.num_layers)]
    mine = layers[: -(-len(layers) // layout.pipeline)]
    whole = tokens * layout.tensor
    key_value = 2 * config.num_kv_heads * config.head_dim * width // layout.tensor
    away = (layout.expert - 1) / layout.expert
    return {
        "experts": sum(4 * tokens * layer.top_k * hidden * away for layer in mine),
        "routing": sum(tokens * (ranks - 1) * layer.num_experts * 4 for layer in mine),
        "tensor": 4 * len(mine) * whole * hidden * (layout.tensor - 1) / layout.tensor,
        "context": sum(2 * whole * key_value * (layout.context - 1) for layer in mine if layer.owns_kv),
        "pipeline": 2 * tokens * hidden if layout.pipeline > 1 else 0,
    }
