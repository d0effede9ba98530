"""AdamW over float32 masters on a GPU: one pass reads a gradient and writes master, moments and the bfloat16 copy.

The arithmetic is that of ``torch.optim.AdamW``. What it saves is memory traffic, which is all that an optimiser costs:
28 bytes a parameter, where casting gradients to float32, clipping, updating and casting weights anew take 60. The
factor that clips gradients is a number on the device, so nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from kaiyuan.model.linear import gradient, leaf


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


class MasterAdamW(torch.optim.Optimizer):
    """Takes the place of ``torch.optim.AdamW``, with the same state, for parameters whose gradients may be those of
    their copies (``kaiyuan.model.linear.keep_copies``). ``clip_factor`` scales the gradients of the next step.

    ``moments`` in bfloat16 save a third of the traffic; with beta2 far over 0.95 their rounding stops the second one.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], betas: tuple[float, float], eps: float,
        moments: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.moments = moments
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.clip_factor: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for parameter, group in self._by_size():
            grad = gradient(parameter)
            if grad is not None:
                self._update(parameter, grad, group)

    def _by_size(self) -> list[tuple[nn.Parameter, dict[str, Any]]]:
        """The largest first: while a GPU updates those, small ones and the next step are prepared for it."""
        pairs = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        return sorted(pairs, key=lambda pair: -pair[0].numel())

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for slot in ("exp_avg", "exp_avg_sq"):
                state[slot] = torch.zeros_like(parameter, dtype=self.moments)
        state["step"] = state["step"].cpu() + 1
        if self.clip_factor is None:
            self.clip_factor = torch.ones((), device=parameter.device)
        holder = leaf(parameter)
        update(
            parameter, grad.contiguous(), state["exp_avg"], state["exp_avg_sq"],
            None if holder is parameter else holder, self.clip_factor, step=int(state["step"]), lr=group["lr"],
            betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"],
        )  # fmt: skip

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                leaf(parameter).grad = parameter.grad = None
