"""RMSNorm, alone and fused with RoPE for queries and keys. Statistics are float32 whatever the activations' type.

Written as autograd functions because the composed form makes six passes over the activations and keeps four of them
for the backward pass; these make two and keep one. On a GPU each is one kernel (``kaiyuan.model.kernels``), on a CPU
one pass of C++ (``kaiyuan.model.native``) where there is a compiler.
``rms_norm_reference`` is the obvious form, and the tests compare with it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.fused import fused
from kaiyuan.model.native import norms as native_norms
from kaiyuan.model.native.library import native
from kaiyuan.model.rope import rotate


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension."""
    x_float = x.float()
    normed = (x_float * torch.rsqrt(x_float.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return normed if weight is None else normed * weight.to(x.dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """``1 / sqrt(mean(x^2) + eps)`` over the last dimension, float32, keeping that dimension."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.rsqrt(norm.square_().div_(x.shape[-1]).add_(eps))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse.to(x.dtype)).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        normed = x * inverse.to(x.dtype)
        grad_weight = (grad * normed).flatten(0, -2).sum(0, dtype=torch.float32).to(weight.dtype)
        return _norm_backward(grad * weight.to(grad.dtype), normed, inverse), grad_weight, None


def _norm_backward(grad: Tensor, normed: Tensor, inverse: Tensor) -> Tensor:
    """Gradient through ``normed = x * inverse`` where ``inverse`` itself depends on ``x``. Consumes ``grad``."""
    projection = (grad * normed).sum(-1, keepdim=True, dtype=torch.float32).div_(normed.shape[-1])
    return grad.sub_(normed.mul_(projection.to(grad.dtype))).mul_(inverse.to(grad.dtype))


class RMSNorm(nn.Module):
    """RMSNorm with a gain. Input and output (..., D) in the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # nothing to keep: the library's own is quicker for few tokens
            return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)
        return self.beside(x)[1] if fused(x) or native(x) else _RMSNorm.apply(x, self.weight, self.eps)

    def beside(self, x: Tensor, added: Tensor | None = None, uses: int = 1) -> tuple[Tensor, ...]:
        """The residual stream ``x + added`` (``x`` without ``added``) and ``uses`` times its norm, at most 3: a GPU
        adds up the gradients of different uses on the way, if each use has its own.
        """
        if fused(x):
            from kaiyuan.model.kernels.norm import residual_norm

            return residual_norm(x, added, self.weight, self.eps, uses)
        if torch.is_grad_enabled() and native(x):
            whole, normed = native_norms.residual_norm(x, added, self.weight, self.eps)
            return whole, *[normed] * uses
        x = x if added is None else x + added
        return x, *[self(x)] * uses


class _RopeNorm(torch.autograd.Function):
    """``rotate(x / rms(x)) * gain``: a rotation keeps the norm, so the statistics can be taken before it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        rotated = rotate(x * inverse.to(x.dtype), cos, sin)
        ctx.save_for_backward(x, cos, sin, gain, inverse)
        return rotated if gain is None else rotated * gain.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin, gain, inverse = ctx.saved_tensors
        normed = x * inverse.to(x.dtype)
        grad_gain = None
        if gain is not None:
            rotated = rotate(normed, cos, sin)
            grad_gain = (grad * rotated).flatten(0, -2).sum(0, dtype=torch.float32).to(gain.dtype)
            grad = grad * gain.to(grad.dtype)
        return _norm_backward(rotate(grad, cos, -sin), normed, inverse), None, None, grad_gain, None


def rope_norm(x_BTHd: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """RoPE, then RMSNorm over the head dimension, then ``gain`` (d,) if there is one: the order of the release."""
    if fused(x_BTHd):
        from kaiyuan.model.kernels import rope_norm as kernels

        return kernels.rope_norm(x_BTHd, cos, sin, gain, eps)
    if not torch.is_grad_enabled():
        rotated = rotate(F.rms_norm(x_BTHd, x_BTHd.shape[-1:], None, eps), cos.to(x_BTHd.dtype), sin.to(x_BTHd.dtype))
        return rotated if gain is None else rotated * gain.to(x_BTHd.dtype)
    if native(x_BTHd):
        return native_norms.rope_norm(x_BTHd, cos, sin, gain, eps)
    return _RopeNorm.apply(x_BTHd, cos.to(x_BTHd.dtype), sin.to(x_BTHd.dtype), gain, eps)
