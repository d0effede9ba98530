"""What one rank keeps of a model, before any GPU is paid for.

State is read off the real program: the model is built on the meta device and divided by the very code that trains, in a
process group that only pretends to have so many ranks.
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
