"""One update of AdamW over float32 masters: reads a gradient, writes master, moments and the short copy, at once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _adamw_update(
    master, grad, mean, square, copy, factor, count, lr, beta1, beta2, eps, decay, correction1, correction2,
    COPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    g = tl.load(grad + i, inside, 0.0).to(tl.float32) * tl.load(factor)
    m, v = tl.load(mean + i, inside, 0.0).to(tl.float32), tl.load(square + i, inside, 0.0).to(tl.float32)
    p = tl.load(master + i, inside, 0.0)
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    p = p * (1 - lr * decay) - (lr / correction1) * m / (tl.sqrt(v) / correction2 + eps)
    tl.store(mean + i, m.to(mean.dtype.element_ty), inside)
    tl.store(square + i, v.to(square.dtype.element_ty), inside)
    tl.store(master + i, p, inside)
    if COPY:
        tl.store(copy + i, p.to(copy.dtype.element_ty), inside)


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
