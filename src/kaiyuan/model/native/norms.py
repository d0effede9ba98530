"""RMSNorm beside a residual stream, and RoPE with the norm of queries and keys, by the library, with gradients.

The plain forms are in ``kaiyuan.model.norm``. Shapes: B batch, T tokens, H heads, d head dimension, D hidden size, N
rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kaiyuan.model.native.library import library
from kaiyuan.model.native.operations import brief

PIECES = 64
"""Parts of the rows, each with its own sum for the gain's gradient: the same whatever the number of threads."""


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        size = x.shape[-1]
        x, gain = x.contiguous(), gain.float().contiguous()
        added = None if added is None else added.contiguous()
        whole = x.view_as(x) if added is None else torch.empty_like(x)
        normed, inverse = torch.empty_like(x), torch.empty(x.shape[:-1])
        library().kaiyuan_residual_norm(
            x.data_ptr(), None if added is None else added.data_ptr(), gain.data_ptr(), whole.data_ptr(),
            normed.data_ptr(), inverse.data_ptr(), inverse.numel(), size, eps, brief(x), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(whole, gain, inverse)
        ctx.added = added is not None
        ctx.set_materialize_grads(False)
        return whole, normed

    @staticmethod
    def backward(ctx: Any, grad_whole: Tensor | None, grad_normed: Tensor | None) -> tuple[Tensor | None, ...]:
        whole, gain, inverse = ctx.saved_tensors
        if grad_normed is None:
            return grad_whole, grad_whole if ctx.added else None, None, None
        rows, size = inverse.numel(), whole.shape[-1]
        pieces = max(1, min(rows, PIECES))
        grad_normed = grad_normed.contiguous()
        grad_whole = None if grad_whole is None else grad_whole.contiguous()
        grad_x, grad_gain = torch.empty_like(whole), torch.empty(pieces, size)
        library().kaiyuan_residual_norm_backward(
            whole.data_ptr(), gain.data_ptr(), inverse.data_ptr(), grad_normed.data_ptr(),
            None if grad_whole is None else grad_whole.data_ptr(), grad_x.data_ptr(), grad_gain.data_ptr(),
            rows, size, pieces, brief(whole), torch.get_num_threads(),
        )  # fmt: skip
        return grad_x, grad_x if ctx.added else None, grad_gain.sum(0), None


def residual_norm(x: Tensor, added: Tensor | None, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``whole = x + added`` (``x`` itself without ``added``) and ``rms_norm(whole) * gain``, both (..., D)."""
    whole, normed = _ResidualNorm.apply(x, added, gain, eps)
    return whole, normed


class _RopeNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        x = x.contiguous()
        gain = None if gain is None else gain.float().contiguous()
        out = torch.empty_like(x)
        library().kaiyuan_rope_norm(
            x.data_ptr(), cos.data_ptr(), sin.data_ptr(), None if gain is None else gain.data_ptr(), out.data_ptr(),
            *_shape(x, cos), eps, brief(x), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(x, cos, sin, gain)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin, gain = ctx.saved_tensors
        rows, heads, places, half = _shape(x, cos)
        pieces = max(1, min(rows, PIECES))
        grad, grad_x = grad.contiguous(), torch.empty_like(x)
        grad_gain = torch.empty(pieces if gain is not None else 0, 2 * half)
        library().kaiyuan_rope_norm_backward(
            x.data_ptr(), cos.data_ptr(), sin.data_ptr(), None if gain is None else gain.data_ptr(), grad.data_ptr(),
            grad_x.data_ptr(), grad_gain.data_ptr(), rows, heads, places, half, ctx.eps, pieces, brief(x),
            torch.get_num_threads(),
        )  # fmt: skip
        return grad_x, None, None, None if gain is None else grad_gain.sum(0), None


def _shape(x_BTHd: Tensor, cos: Tensor) -> tuple[int, int, int, int]:
    """Rows, heads, tokens that have angles of their own, half of a head."""
    heads, half = x_BTHd.shape[-2], x_BTHd.shape[-1] // 2
    return x_BTHd.numel() // (2 * half), heads, cos.numel() // half, half


def rope_norm(x_BTHd: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """RoPE, then RMSNorm over d, then ``gain`` (d,): (B, T, H, d). ``cos`` and ``sin`` float32 (B or 1, T, 1, d/2)."""
    return _RopeNorm.apply(x_BTHd, cos.contiguous(), sin.contiguous(), gain, eps)
