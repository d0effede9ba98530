"""RMSNorm beside a residual stream: the sum, the norm, and all their gradients, each in one pass.

The plain form is ``kaiyuan.model.norm.rms_norm_reference``. Shapes: N rows, D hidden size, P programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 528
"""Programs that share the rows of a backward pass (four for each multiprocessor of an H100): each keeps a sum."""


@triton.jit
def _norm_forward(x, added, gain, whole, normed, inverse, size, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, at = i < size, row * size + i
    value = tl.load(x + at, inside, 0.0)
    if ADD:
        value = (value.to(tl.float32) + tl.load(added + at, inside, 0.0).to(tl.float32)).to(x.dtype.element_ty)
        tl.store(whole + at, value, inside)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    tl.store(inverse + row, scale)
    weight = tl.load(gain + i, inside, 0.0).to(tl.float32)
    tl.store(normed + at, (wide * scale * weight).to(normed.dtype.element_ty), inside)


@triton.jit
def _norm_backward(
    x, gain, inverse, grad_first, grad_second, grad_third, grad_whole, grad_x, grad_gain, rows, size, programs,
    USES: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, i = tl.program_id(0), tl.arange(0, BLOCK)
    inside = i < size
    weight = tl.load(gain + i, inside, 0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for row in range(program, rows, programs):
        at = row * size.to(tl.int64) + i
        scale = tl.load(inverse + row)
        unit = tl.load(x + at, inside, 0.0).to(tl.float32) * scale
        grad = tl.load(grad_first + at, inside, 0.0).to(tl.float32)
        if USES > 1:
            grad += tl.load(grad_second + at, inside, 0.0).to(tl.float32)
        if USES > 2:
            grad += tl.load(grad_third + at, inside, 0.0).to(tl.float32)
        total += grad * unit
        grad *= weight
        found = scale * (grad - unit * (tl.sum(grad * unit, 0) / size))
        if ADD:
            found += tl.load(grad_whole + at, inside, 0.0).to(tl.float32)
        tl.store(grad_x + at, found.to(grad_x.dtype.element_ty), inside)
    tl.store(grad_gain + program * size + i, total, inside)


MOST_USES = 3
"""Gradients that the backward pass adds up."""


def _warps(size: int) -> int:
    return 4 if size <= 2048 else 8


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, gain: Tensor, eps: float, uses: int) -> tuple[Tensor, ...]:
        size = x.shape[-1]
        x = x.contiguous()
        added = None if added is None else added.contiguous()
        whole = x.view_as(x) if added is None else torch.empty_like(x)
        normed = torch.empty_like(x)
        inverse = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
        _norm_forward[(x.numel() // size,)](
            x, x if added is None else added, gain, whole, normed, inverse, size, eps,
            ADD=added is not None, BLOCK=triton.next_power_of_2(size), num_warps=_warps(size),
        )  # fmt: skip
        ctx.save_for_backward(whole, gain, inverse)
        ctx.added = added is not None
        ctx.set_materialize_grads(False)
        return whole, *(normed.view_as(normed) for _ in range(uses))

    @staticmethod
    def backward(ctx: Any, grad_whole: Tensor | None, *grads_normed: Tensor | None) -> tuple[Tensor | None, ...]:
        whole, gain, inverse = ctx.saved_tensors
        grads = [grad.contiguous() for grad in grads_normed if grad is not None]
        if not grads:
            return grad_whole, grad_whole if ctx.added else None, None, None, None
        size = whole.shape[-1]
        rows = whole.numel() // size
        programs = min(rows, PROGRAMS)
        beside = grads[0] if grad_whole is None else grad_whole.contiguous()
        grad_x = torch.empty_like(whole)
        grad_gain = torch.empty(programs, size, dtype=torch.float32, device=whole.device)
        _norm_backward[(programs,)](
            whole, gain, inverse, *(grads + grads[:1] * MOST_USES)[:MOST_USES], beside, grad_x, grad_gain, rows, size,
            programs, USES=len(grads), ADD=grad_whole is not None, BLOCK=triton.next_power_of_2(size),
            num_warps=_warps(size),
        )  # fmt: skip
        return grad_x, grad_x if ctx.added else None, grad_gain.sum(0).to(gain.dtype), None, None


def residual_norm(x: Tensor, added: Tensor | None, gain: Tensor, eps: float, uses: int = 1) -> tuple[Tensor, ...]:
    """``whole = x + added`` (``x`` itself without ``added``) and ``uses`` times ``rms_norm(whole) * gain``, (..., D).

    Whoever goes on with ``whole`` as the residual stream, and gives each use of the norm its own, gets all gradients
    added up in the norm's own pass.
    """
    if not 1 <= uses <= MOST_USES:
        raise ValueError(f"{uses} uses of a norm: 1 to {MOST_USES} are possible")
    return _ResidualNorm.apply(x, added, gain, eps, uses)
