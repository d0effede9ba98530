"""SwiGLU, and SwiGLU times the combine weight of a row, forwards and backwards in one pass each; what they write can
be written in fp8 as well.

The plain form: ``silu(gate) * up * weight``. Shapes: N rows, F width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.model.kernels.fp8 import Rows, encode_row, room


@triton.jit
def _swiglu_forward(gate_up, weight, out, width, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, at = i < width, row * 2 * width + i
    gate, up = tl.load(gate_up + at, inside, 0.0).to(tl.float32), tl.load(gate_up + at + width, inside, 0.0)
    value = gate * tl.sigmoid(gate) * up.to(tl.float32)
    if WEIGHTED:
        value *= tl.load(weight + row)
    tl.store(out + row * width + i, value.to(out.dtype.element_ty), inside)


@triton.jit
def _swiglu_forward_coded(
    gate_up, weight, out, codes, scales, width, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row, most = tl.program_id(0).to(tl.int64), tl.zeros((BLOCK,), tl.float32)
    scale = 1.0
    if WEIGHTED:
        scale = tl.load(weight + row)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside, at = i < width, row * 2 * width + i
        gate = tl.load(gate_up + at, inside, 0.0).to(tl.float32)
        up = tl.load(gate_up + at + width, inside, 0.0).to(tl.float32)
        value = gate * tl.sigmoid(gate) * up * scale
        most = tl.maximum(most, tl.abs(value))
        tl.store(out + row * width + i, value.to(out.dtype.element_ty), inside)
    encode_row(out + row * width, codes + row * width, scales, row, width, tl.max(most, 0), BLOCK)


@triton.jit
def _swiglu_backward(
    gate_up, weight, grad, grad_gate_up, grad_weight, kept, codes, scales, width,
    WEIGHTED: tl.constexpr, CODED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scale, total, most = 1.0, tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    if WEIGHTED:
        scale = tl.load(weight + row)
    for start in range(0, width, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside, at = i < width, row * 2 * width + i
        gate = tl.load(gate_up + at, inside, 0.0).to(tl.float32)
        up = tl.load(gate_up + at + width, inside, 0.0).to(tl.float32)
        g = tl.load(grad + row * width + i, inside, 0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        total += g * silu * up
        g *= scale
        grad_gate, grad_up = g * up * (sigmoid + silu * (1 - sigmoid)), g * silu
        tl.store(grad_gate_up + at, grad_gate.to(grad_gate_up.dtype.element_ty), inside)
        tl.store(grad_gate_up + at + width, grad_up.to(grad_gate_up.dtype.element_ty), inside)
        if CODED:
            most = tl.maximum(most, tl.maximum(tl.abs(grad_gate), tl.abs(grad_up)))
    if CODED:
        whole = row * 2 * width
        encode_row(grad_gate_up + whole, codes + whole, scales, row, 2 * width, tl.max(most, 0), BLOCK)
    if WEIGHTED:  # rows that no expert computes hold rubbish
        tl.store(grad_weight + row, tl.where(row < tl.load(kept), tl.sum(total, 0), 0.0))


def _block(width: int) -> int:
    return min(2048, triton.next_power_of_2(width))


def forward(gate_up_NH: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """``silu(gate) * up`` (N, F), times ``weight_N`` float32 if there is one; no gradient."""
    rows, width = gate_up_NH.shape[0], gate_up_NH.shape[1] // 2
    out = gate_up_NH.new_empty(rows, width)
    if rows:
        _swiglu_forward[rows, triton.cdiv(width, _block(width))](
            gate_up_NH, gate_up_NH if weight_N is None else weight_N, out, width,
            WEIGHTED=weight_N is not None, BLOCK=_block(width), num_warps=8,
        )  # fmt: skip
    return out


def forward_coded(gate_up_NH: Tensor, weight_N: Tensor | None = None) -> tuple[Tensor, Rows]:
    """``forward``, and the same in fp8."""
    rows, width = gate_up_NH.shape[0], gate_up_NH.shape[1] // 2
    out = gate_up_NH.new_empty(rows, width)
    found = room(rows, width, out)
    if rows:
        _swiglu_forward_coded[(rows,)](
            gate_up_NH, gate_up_NH if weight_N is None else weight_N, out, *found, width,
            WEIGHTED=weight_N is not None, BLOCK=_block(width), num_warps=8,
        )  # fmt: skip
    return out, found


def backward(
    grad_NF: Tensor, gate_up_NH: Tensor, weight_N: Tensor | None = None, kept: Tensor | None = None,
    coded: bool = False,
) -> tuple[Tensor, Tensor | None, Rows | None]:  # fmt: skip
    """Gradients for ``gate_up`` and, float32, for ``weight``: 0 in rows from ``kept`` (one int32) on. The first in fp8
    too if it is to be ``coded``.
    """
    rows, width = grad_NF.shape
    grad_gate_up = torch.empty_like(gate_up_NH)
    grad_weight = None if weight_N is None else torch.empty_like(weight_N)
    found = room(rows, 2 * width, grad_gate_up) if coded else None
    if rows:
        _swiglu_backward[(rows,)](
            gate_up_NH, gate_up_NH if weight_N is None else weight_N, grad_NF, grad_gate_up,
            gate_up_NH if grad_weight is None else grad_weight, gate_up_NH if kept is None else kept,
            *(found or (gate_up_NH, gate_up_NH)), width,
            WEIGHTED=weight_N is not None, CODED=coded, BLOCK=_block(width), num_warps=8,
        )  # fmt: skip
    return grad_gate_up, grad_weight, found


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return forward(gate_up.flatten(0, -2)).unflatten(0, gate_up.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return backward(grad.flatten(0, -2).contiguous(), gate_up.flatten(0, -2))[0].view_as(gate_up)


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of (..., 2F), gate first, differentiable: (..., F)."""
    return _SwiGLU.apply(gate_up.contiguous())
