"""One update of AdamW over float32 masters: reads a gradient, writes master, moments and what products read, at once:
the short copy, or codes in fp8.

Shapes: E matrices (experts; 1 for a layer alone), O outputs, I inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.model.kernels.fp8 import Codes, encode_tile, tile_places

_OUTPUTS, _INPUTS, _WARPS = 32, 64, 8
"""A program's tile of a weight that it updates and codes."""
_SHORT = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _step(
    master, grad, mean, square, i, inside, factor, lr, beta1, beta2, eps, decay, correction1, correction2
):  # fmt: skip
    """Updates the numbers at ``i`` in place; returns them."""
    g = tl.load(grad + i, inside, 0.0).to(tl.float32) * tl.load(factor)
    m, v = tl.load(mean + i, inside, 0.0).to(tl.float32), tl.load(square + i, inside, 0.0).to(tl.float32)
    p = tl.load(master + i, inside, 0.0)
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    p = p * (1 - lr * decay) - (lr / correction1) * m / (tl.sqrt(v) / correction2 + eps)
    tl.store(mean + i, m.to(mean.dtype.element_ty), inside)
    tl.store(square + i, v.to(square.dtype.element_ty), inside)
    tl.store(master + i, p, inside)
    return p


@triton.jit
def _adamw_update(
    master, grad, mean, square, copy, factor, count, lr, beta1, beta2, eps, decay, correction1, correction2,
    COPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    p = _step(
        master, grad, mean, square, i, inside, factor, lr, beta1, beta2, eps, decay, correction1, correction2
    )  # fmt: skip
    if COPY:
        tl.store(copy + i, p.to(copy.dtype.element_ty), inside)


@triton.jit
def _adamw_coded(
    master, grad, mean, square, codes, turned, scale_o, scale_i, largest, following, factor, outputs, inputs,
    lr, beta1, beta2, eps, decay, correction1, correction2, SHORT: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    matrix, o, i = tile_places(OUTPUTS, INPUTS)
    inside = (o < outputs)[:, None] & (i < inputs)[None, :]
    at = matrix * outputs * inputs + o[:, None] * inputs + i[None, :]
    p = _step(
        master, grad, mean, square, at, inside, factor, lr, beta1, beta2, eps, decay, correction1, correction2
    ).to(SHORT)  # fmt: skip
    tl.atomic_max(following + matrix, tl.max(tl.max(tl.where(inside, tl.abs(p.to(tl.float32)), 0.0), 0), 0))
    most = tl.load(largest + matrix)
    encode_tile(p, most, codes, turned, scale_o, scale_i, matrix, o, i, outputs, inputs)


def update(
    master: Tensor, grad: Tensor, mean: Tensor, square: Tensor, copy: Tensor | None, factor: Tensor, *,
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """One update of one parameter in place; ``factor`` (one float32) scales the gradient. All tensors contiguous."""
    count, block = master.numel(), 2048
    _adamw_update[(triton.cdiv(count, block),)](
        master, grad, mean, square, master if copy is None else copy, factor, count, lr, *betas, eps, weight_decay,
        1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5, COPY=copy is not None, BLOCK=block, num_warps=8,
    )  # fmt: skip


def update_coded(
    master: Tensor, grad: Tensor, mean: Tensor, square: Tensor, codes: Codes, largest_E: Tensor, following_E: Tensor,
    factor: Tensor, short: torch.dtype, *,
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """``update`` for weights (E, O, I) or (O, I) that products read in fp8: ``codes`` are rewritten, of the new weights
    rounded to ``short``, with scales from ``largest_E`` (float32), the largest numbers before the update, so that a
    weight is read and written once. ``following_E`` (all 0) gets those after it.
    """
    experts, outputs, inputs = codes.codes.shape
    _adamw_coded[triton.cdiv(inputs, _INPUTS), triton.cdiv(outputs, _OUTPUTS), experts](
        master, grad, mean, square, *codes[:4], largest_E, following_E, factor, outputs, inputs, lr, *betas, eps,
        weight_decay, 1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5, SHORT=_SHORT[short],
        OUTPUTS=_OUTPUTS, INPUTS=_INPUTS, num_warps=_WARPS,
    )  # fmt: skip
