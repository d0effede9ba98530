"""Sharding weights, gradients and optimiser state over ranks: FSDP2, or HSDP with replicas."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from kaiyuan.model.transformer import Block, Transformer
from kaiyuan.training.parallel.mesh import Mesh


def shard_model(model: Transformer, mesh: Mesh) -> None:
    """Wrap blocks, their experts and the model itself in FSDP; gradients are summed over ranks, not averaged.

    With a compute dtype under float32 weights travel in it and gradients are added up in float32. The router stays
    float32 on the way too.
    """
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nothing is added in place
    dtype = model.compute_dtype
    narrow = dtype is not None and dtype != torch.float32
    policy = MixedPrecisionPolicy(dtype, torch.float32) if narrow else MixedPrecisionPolicy()
    wrap: dict[str, Any] = {"mp_policy": replace(policy, cast_forward_inputs=False)}
    if mesh.layout.pipeline > 1:  # a stage's gradients wait whole for the last micro-batch: so may its weights
        wrap["reshard_after_forward"] = False
    for block in model.layers:
        if not isinstance(block, Block):  # of another pipeline stage
            continue
        if mesh.layout.tensor > 1:
            fully_shard(block.attention, mesh=mesh.heads, shard_placement_fn=_placement(mesh.heads), **wrap)
        fully_shard(block.moe.experts, mesh=mesh.experts, shard_placement_fn=_placement(mesh.experts), **wrap)
        if narrow:
            fully_shard(block.moe.router, mesh=mesh.dense, reshard_after_forward=mesh.layout.pipeline == 1)
        fully_shard(block, mesh=mesh.dense, **wrap)
    fully_shard(model, mesh=mesh.dense, **wrap)
    if mesh.layout.pipeline == 1:
        register_fsdp_forward_method(model, "features")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def fill(model: Transformer, device: torch.device, seed: int) -> None:
    """Give a sharded model that was made on the meta device memory, and the weights of ``init_weights(seed)``.

    One whole parameter at a time is made on the CPU of each rank, which keeps its part.
    """
    model.to_empty(device=device)
    for name, weight in model.named_parameters():
        assert isinstance(weight, DTensor)
        whole = model.initial_weight(name, weight.shape, seed).to(device)
        part = distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None)
        weight.to_local().copy_(part.to_local())


def _placement(mesh: DeviceMesh) -> Any:
    """Along which dimension a weight is sharded: the first that no other ranks divide and that comes out even. Sixteen
    experts over 256 ranks would travel as 256 along their first.
    """
    ranks = mesh.shape[-1]

    def place(weight: nn.Parameter) -> Shard:
        taken = {place.dim for place in getattr(weight, "placements", ()) if isinstance(place, Shard)}
        free = [dim for dim in range(weight.dim()) if dim not in taken and weight.shape[dim] % ranks == 0]
        return Shard(free[0] if free else 0)

    return place


def copies(weight: nn.Parameter, ranks: int) -> float:
    """On how many of ``ranks`` the same part of ``weight`` is held."""
    assert isinstance(weight, DTensor)
    parts = 1
    for size, place in zip(weight.device_mesh.shape, weight.placements, strict=True):
        parts *= size if place.is_shard() else 1
    return ranks / parts
