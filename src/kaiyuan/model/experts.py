"""SwiGLU feed-forward layers: the shared expert, and the specialised experts computed group by group.

Tokens are sorted by expert, so every expert multiplies one contiguous block: nothing is padded and nothing computed
twice. On a GPU one grouped GEMM runs all experts; on a CPU, where a grouped GEMM is no faster, a loop over experts
does, as an autograd function of its own: automatic differentiation of ``weight[e]`` would fill a gradient as large as
*all* experts for each expert (measured: 3 to 10 times the cost of the whole layer).

Shapes: T tokens, D hidden size, F width of an expert, E experts, N assignments, M assignments that are computed
(sorted).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.linear import Linear
from kaiyuan.model.routing import Routing


class _SwiGLU(torch.autograd.Function):
    """``silu(gate) * up`` for ``gate_up`` (..., 2F), keeping only ``gate_up`` for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return swiglu_backward(grad, gate_up)[0]


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient for ``gate_up`` (..., 2F) and the recomputed activation (..., F), given that of the activation."""
    gate, up = gate_up.chunk(2, dim=-1)
    grad_gate_up = torch.empty_like(gate_up)
    grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
    silu = F.silu(gate)
    torch.mul(grad, silu, out=grad_up)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
    return grad_gate_up, silu.mul_(up)


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up``; the gate is the first half of the last dimension."""
    return _SwiGLU.apply(gate_up)


class SharedExpert(nn.Module):
    """The expert that every token passes through. (..., D) to (..., D)."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * width)
        self.down = Linear(width, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))


class Dispatch:
    """The order in which assignments are computed: sorted by expert, dropped ones left out.

    ``token_M`` is each computed assignment's token, ``place_M`` its index in N, ``counts`` the assignments of each
    expert.
    """

    def __init__(self, routing: Routing, experts: int, top_k: int) -> None:
        order_N = torch.argsort(routing.expert_N, stable=True)
        self.counts_E = torch.bincount(routing.expert_N, minlength=experts + 1)[:experts]
        self.place_M = order_N[: int(self.counts_E.sum())]
        self.token_M = self.place_M // top_k if top_k > 1 else self.place_M
        self.weight_M = routing.weight_N[self.place_M]


class _ExpertLoop(torch.autograd.Function):
    """All experts one after the other on rows sorted by expert; (M, D) to (M, D)."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, gate_up_EHD: Tensor, down_EDF: Tensor, counts: list[int]) -> Tensor:
        gate_up_w, down_w = gate_up_EHD.to(x_MD.dtype), down_EDF.to(x_MD.dtype)
        hidden_MH = x_MD.new_empty(len(x_MD), gate_up_w.shape[1])
        out_MD = torch.empty_like(x_MD)
        for expert, rows in _blocks(counts):
            torch.mm(x_MD[rows], gate_up_w[expert].t(), out=hidden_MH[rows])
            gate, up = hidden_MH[rows].chunk(2, dim=-1)
            torch.mm(F.silu(gate).mul_(up), down_w[expert].t(), out=out_MD[rows])
        ctx.save_for_backward(x_MD, hidden_MH, gate_up_w, down_w)
        ctx.counts = counts
        ctx.weight_dtype = gate_up_EHD.dtype
        return out_MD

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, hidden_MH, gate_up_w, down_w = ctx.saved_tensors
        grad_x = torch.empty_like(x_MD)
        grad_gate_up = torch.empty(gate_up_w.shape, dtype=ctx.weight_dtype)
        grad_down = torch.empty(down_w.shape, dtype=ctx.weight_dtype)
        grad_MD = grad_MD.contiguous()
        for expert, count in enumerate(ctx.counts):
            if count == 0:
                grad_gate_up[expert].zero_()
                grad_down[expert].zero_()
        for expert, rows in _blocks(ctx.counts):
            grad_act = grad_MD[rows] @ down_w[expert]
            grad_hidden, act = swiglu_backward(grad_act, hidden_MH[rows])
            grad_down[expert] = grad_MD[rows].t() @ act
            grad_gate_up[expert] = grad_hidden.t() @ x_MD[rows]
            torch.mm(grad_hidden, gate_up_w[expert], out=grad_x[rows])
        return grad_x, grad_gate_up, grad_down, None


def _blocks(counts: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for every expert that has any."""
    blocks, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            blocks.append((expert, slice(start, start + count)))
        start += count
    return blocks


def _grouped(x_MD: Tensor, gate_up_EHD: Tensor, down_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """All experts in two grouped GEMMs (GPU). Strides must be multiples of 16 bytes: sizes divisible by 8."""
    offsets_E = counts_E.cumsum(0).to(torch.int32)
    hidden_MH = F.grouped_mm(x_MD, gate_up_EHD.to(x_MD.dtype).transpose(1, 2), offs=offsets_E)
    return F.grouped_mm(swiglu(hidden_MH), down_EDF.to(x_MD.dtype).transpose(1, 2), offs=offsets_E)


class Experts(nn.Module):
    """The specialised experts of one layer, stacked: ``gate_up`` (E, 2F, D), gate first, and ``down`` (E, D, F)."""

    def __init__(self, num_experts: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * width, hidden_size))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_size, width))

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        """The weighted sum over each token's experts, (T, D); zero for a token that no expert computes."""
        x_MD = x_TD[dispatch.token_M]
        if x_MD.is_cuda and x_MD.dtype == torch.bfloat16:
            out_MD = _grouped(x_MD, self.gate_up, self.down, dispatch.counts_E)
        else:
            out_MD = self.loop(x_MD, dispatch)
        weighted_MD = out_MD * dispatch.weight_M[:, None].to(out_MD.dtype)
        return torch.zeros_like(x_TD).index_add(0, dispatch.token_M, weighted_MD)

    def loop(self, x_MD: Tensor, dispatch: Dispatch) -> Tensor:
        return _ExpertLoop.apply(x_MD, self.gate_up, self.down, dispatch.counts_E.tolist())


def experts_reference(x_TD: Tensor, routing: Routing, top_k: int, gate_up_EHD: Tensor, down_EDF: Tensor) -> Tensor:
    """The same, one assignment at a time: slow, obvious, and what the tests compare with."""
    out_TD = torch.zeros_like(x_TD)
    for place, expert in enumerate(routing.expert_N.tolist()):
        if expert < len(gate_up_EHD):
            gate, up = (gate_up_EHD[expert] @ x_TD[place // top_k]).chunk(2)
            out_TD[place // top_k] += routing.weight_N[place] * (down_EDF[expert] @ (F.silu(gate) * up))
    return out_TD
