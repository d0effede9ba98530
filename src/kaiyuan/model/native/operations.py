"""The library's functions on tensors of a CPU. Shapes: N rows, F width, V words."""

from __future__ import annotations

import torch
from torch import Tensor

from kaiyuan.model.native.library import AdamW, library

PIECE = 32768
"""Numbers whose squares are summed in one go (``PIECE`` in source/optimizer.hpp)."""


def brief(x: Tensor) -> bool:
    """How the library is told a dtype: bfloat16, else float32."""
    return x.dtype == torch.bfloat16


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of (..., 2F)."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], width)
    library().kaiyuan_swiglu(
        gate_up.data_ptr(), out.data_ptr(), out.numel() // max(width, 1), width, brief(out), torch.get_num_threads()
    )
    return out


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient for ``gate_up`` (..., 2F) and the activation (..., F), given that of the activation."""
    grad, gate_up = grad.contiguous(), gate_up.contiguous()
    grad_gate_up, act = torch.empty_like(gate_up), torch.empty_like(grad)
    width = act.shape[-1]
    library().kaiyuan_swiglu_backward(
        grad.data_ptr(), gate_up.data_ptr(), grad_gate_up.data_ptr(), act.data_ptr(),
        act.numel() // max(width, 1), width, brief(act), torch.get_num_threads(),
    )  # fmt: skip
    return grad_gate_up, act


def cross_entropy_(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor, grad: bool = True) -> Tensor:
    """Float32 (N,) weighted losses in nats; ``logits_NV`` becomes the gradient of their sum if ``grad``."""
    rows, words = logits_NV.shape
    assert logits_NV.is_contiguous()
    targets_N, weights_N = targets_N.contiguous(), weights_N.contiguous()
    losses = torch.empty(rows)
    library().kaiyuan_cross_entropy(
        logits_NV.data_ptr(), targets_N.data_ptr(), weights_N.data_ptr(), losses.data_ptr(),
        rows, words, grad, brief(logits_NV), torch.get_num_threads(),
    )  # fmt: skip
    return losses


def square_sum(x: Tensor) -> Tensor:
    """The sum of squares of all numbers of ``x``, float64."""
    x = x.contiguous()
    sums = torch.empty(-(-x.numel() // PIECE), dtype=torch.float64)
    library().kaiyuan_squares(x.data_ptr(), sums.data_ptr(), x.numel(), brief(x), torch.get_num_threads())
    return sums.sum()


def adamw(
    master: Tensor, grad: Tensor, mean: Tensor, square: Tensor, copy: Tensor | None, factor: float, *,
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """One update of one parameter in place; ``factor`` scales the gradient. All tensors contiguous."""
    numbers = AdamW(factor, lr, *betas, eps, weight_decay, 1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5)
    library().kaiyuan_adamw(
        master.data_ptr(), grad.data_ptr(), mean.data_ptr(), square.data_ptr(),
        None if copy is None else copy.data_ptr(), master.numel(), numbers,
        brief(grad), brief(mean), torch.get_num_threads(),
    )  # fmt: skip
