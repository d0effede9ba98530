"""Collectives that gradients flow through. Each one's backward pass is the transposed collective."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def gathered(x: Tensor, group: ProcessGroup, dim: int = 0) -> Tensor:
    """The tensors of all ranks of ``group``, one behind the other along ``dim``; without gradient."""
    x = x.movedim(dim, 0).contiguous()
    out = x.new_empty(group.size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(out, x, group=group)
    return out.movedim(0, dim)


def scattered_sum(x: Tensor, group: ProcessGroup, dim: int = 0) -> Tensor:
    """This rank's part along ``dim`` of the sum over all ranks; without gradient."""
    x = x.movedim(dim, 0).contiguous()
    out = x.new_empty(len(x) // group.size(), *x.shape[1:])
    dist.reduce_scatter_tensor(out, x, group=group)
    return out.movedim(0, dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return gathered(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return scattered_sum(grad, ctx.group, ctx.dim), None, None


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return scattered_sum(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return gathered(grad, ctx.group, ctx.dim), None, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return exchanged(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return exchanged(grad, ctx.received, ctx.sent, ctx.group), None, None, None


def exchanged(x: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    """Rows of ``x``, ``sent[r]`` of them to rank r, for ``received[r]`` from each; without gradient."""
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
    return out


def gather(x: Tensor, group: ProcessGroup, dim: int = 0) -> Tensor:
    """``gathered`` with a gradient: what all ranks made of this rank's part, added up."""
    return _Gather.apply(x, group, dim)


def scatter_sum(x: Tensor, group: ProcessGroup, dim: int = 0) -> Tensor:
    """``scattered_sum`` with its gradient."""
    return _ScatterSum.apply(x, group, dim)


def all_to_all(x: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    """``exchanged`` with its gradient."""
    return _AllToAll.apply(x, sent, received, group)


def summed(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over all ranks, a new tensor without gradient."""
    x = x.detach().clone()
    dist.all_reduce(x, group=group)
    return x
