"""RoPE and RMSNorm of queries and keys in one pass, with cos, sin and all arithmetic in float32.

The plain form: ``rms_norm_reference(rotate(x, cos, sin), gain, eps)``. Shapes: B batch, T tokens, H heads, d head
dimension, R = B * T * H rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1056


@triton.jit
def _load(x, row, i, half, size, inside):
    at = row[:, None].to(tl.int64) * size + i[None, :]
    return tl.load(x + at, inside, 0.0).to(tl.float32), tl.load(x + at + half, inside, 0.0).to(tl.float32)


@triton.jit
def _store(x, row, i, half, size, inside, first, second):
    at = row[:, None].to(tl.int64) * size + i[None, :]
    tl.store(x + at, first.to(x.dtype.element_ty), inside)
    tl.store(x + at + half, second.to(x.dtype.element_ty), inside)


@triton.jit
def _angles(cos, sin, row, i, heads, places, half, inside):
    at = ((row // heads) % places)[:, None].to(tl.int64) * half + i[None, :]
    return tl.load(cos + at, inside, 0.0), tl.load(sin + at, inside, 0.0)


@triton.jit
def _gains(gain, i, half, GAIN: tl.constexpr):
    if GAIN:
        first = tl.load(gain + i, i < half, 0.0).to(tl.float32)[None, :]
        second = tl.load(gain + half + i, i < half, 0.0).to(tl.float32)[None, :]
    else:
        first = tl.full((1, i.shape[0]), 1.0, tl.float32)
        second = first
    return first, second


@triton.jit
def _rope_norm_forward(
    x, cos, sin, gain, out, rows, heads, places, half, eps,
    GAIN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    row, i = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_H)
    size, inside = 2 * half, (row < rows)[:, None] & (i < half)[None, :]
    a, b = _load(x, row, i, half, size, inside)
    c, s = _angles(cos, sin, row, i, heads, places, half, inside)
    scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / size + eps)[:, None]
    first, second = _gains(gain, i, half, GAIN)
    _store(out, row, i, half, size, inside, (a * c - b * s) * scale * first, (b * c + a * s) * scale * second)


@triton.jit
def _rope_norm_backward(
    x, cos, sin, gain, grad, grad_x, grad_gain, rows, heads, places, half, eps, programs,
    GAIN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    program, i, size = tl.program_id(0), tl.arange(0, BLOCK_H), 2 * half
    first, second = _gains(gain, i, half, GAIN)
    total_a, total_b = tl.zeros((BLOCK_R, BLOCK_H), tl.float32), tl.zeros((BLOCK_R, BLOCK_H), tl.float32)
    for start in range(program * BLOCK_R, rows, programs * BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        inside = (row < rows)[:, None] & (i < half)[None, :]
        a, b = _load(x, row, i, half, size, inside)
        c, s = _angles(cos, sin, row, i, heads, places, half, inside)
        g, h = _load(grad, row, i, half, size, inside)
        scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / size + eps)[:, None]
        a, b = a * scale, b * scale
        if GAIN:
            total_a += g * (a * c - b * s)
            total_b += h * (b * c + a * s)
        g, h = g * first, h * second
        g, h = g * c + h * s, h * c - g * s
        along = (tl.sum(g * a + h * b, 1) / size)[:, None]
        _store(grad_x, row, i, half, size, inside, scale * (g - a * along), scale * (h - b * along))
    if GAIN:
        tl.store(grad_gain + program * size + i, tl.sum(total_a, 0), i < half)
        tl.store(grad_gain + program * size + half + i, tl.sum(total_b, 0), i < half)


def _blocks(half: int) -> dict[str, int]:
    block = max(2, triton.next_power_of_2(half))
    return {"BLOCK_H": block, "BLOCK_R": max(1, 2048 // block), "num_warps": 4}


class _RopeNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        x = x.contiguous()
        heads, half = x.shape[-2], x.shape[-1] // 2
        rows, places = x.numel() // x.shape[-1], cos.numel() // half
        out, blocks = torch.empty_like(x), _blocks(half)
        _rope_norm_forward[(triton.cdiv(rows, blocks["BLOCK_R"]),)](
            x, cos, sin, cos if gain is None else gain, out, rows, heads, places, half, eps,
            GAIN=gain is not None, **blocks,
        )  # fmt: skip
        ctx.save_for_backward(x, cos, sin, gain)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin, gain = ctx.saved_tensors
        heads, half = x.shape[-2], x.shape[-1] // 2
        rows, places, blocks = x.numel() // x.shape[-1], cos.numel() // half, _blocks(half)
        programs = min(triton.cdiv(rows, blocks["BLOCK_R"]), PROGRAMS)
        grad_x = torch.empty_like(x)
        grad_gain = torch.empty(programs if gain is not None else 0, 2 * half, dtype=torch.float32, device=x.device)
        _rope_norm_backward[(programs,)](
            x, cos, sin, cos if gain is None else gain, grad.contiguous(), grad_x, grad_gain,
            rows, heads, places, half, ctx.eps, programs, GAIN=gain is not None, **blocks,
        )  # fmt: skip
        return grad_x, None, None, None if gain is None else grad_gain.sum(0).to(gain.dtype), None


def rope_norm(x_BTHd: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """RoPE, then RMSNorm over d, then ``gain`` (d,): (B, T, H, d). ``cos`` and ``sin`` float32 (B or 1, T, 1, d/2)."""
    return _RopeNorm.apply(x_BTHd, cos.contiguous(), sin.contiguous(), gain, eps)
