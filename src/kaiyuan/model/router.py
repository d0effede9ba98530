"""The router's logits, in float32 whatever the activations are.

Shapes: T tokens, D hidden size, E experts, P parts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.fused import fused, is_gpu


class Router(nn.Module):
    """One logit per expert, always in float32: a bfloat16 router changes its mind through rounding alone."""

    def __init__(self, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size, dtype=torch.float32))

    def forward(self, x_TD: Tensor) -> Tensor:
        if fused(x_TD) and x_TD.dtype == torch.bfloat16:
            return _RouterLogits.apply(x_TD, self.weight)
        return F.linear(x_TD.float(), self.weight.float())


def in_parts(x: Tensor, parts: int, dim: int = 0) -> Tensor:
    """bfloat16 tensors one behind the other along ``dim`` that add up to float32 ``x``: 8 bits of it each."""
    found = []
    for _ in range(parts):
        found.append(x.bfloat16())
        x = x - found[-1].float()
    return torch.cat(found, dim)


class _RouterLogits(torch.autograd.Function):
    """``x.float() @ weight.float().T`` for bfloat16 ``x`` without making it float32.

    Products of bfloat16 numbers are exact in float32, where they are added up; so a float32 weight as three bfloat16
    parts loses nothing, and one matrix product reads the activations as they are.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ED: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ED)
        return _product(x_TD, in_parts(weight_ED.float(), 3).t()).unflatten(1, (3, -1)).sum(1)

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor, Tensor]:
        x_TD, weight_ED = ctx.saved_tensors
        grad_TP = in_parts(grad_TE, 2, dim=1)
        grad_weight = _product(grad_TP.t(), x_TD).unflatten(0, (2, -1)).sum(0)
        return grad_TP @ weight_ED.bfloat16().repeat(2, 1), grad_weight.to(weight_ED.dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """float32 product of bfloat16 matrices."""
    return torch.mm(a, b, out_dtype=torch.float32) if is_gpu(a) else a.float() @ b.float()
