"""AdamW over float32 masters: one pass reads a gradient and writes master, moments and what products read, the copy in
bfloat16 or codes in fp8, as they are and turned.

The arithmetic is that of ``torch.optim.AdamW``. What it saves is memory traffic, which is all that an optimiser costs:
28 bytes a parameter, where casting gradients to float32, clipping, updating and casting weights anew take 60. The
factor that clips gradients is a number on the device, so nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kaiyuan.checkpoint.training import CODES
from kaiyuan.model.fused import on_gpu
from kaiyuan.model.linear import InFp8, gradient, holder, in_fp8, leaf, recoded
from kaiyuan.model.native import operations


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
        coded = []
        for parameter, group in self._by_size:
            grad = gradient(parameter)
            if grad is not None and (found := self._update(parameter, grad.contiguous(), group)) is not None:
                coded.append(found)
        _shift_largest(coded)

    @cached_property
    def _by_size(self) -> list[tuple[nn.Parameter, dict[str, Any]]]:
        """The largest first: while a GPU updates those, small ones and the next step are prepared for it."""
        pairs = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        return sorted(pairs, key=lambda pair: -pair[0].numel())

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> InFp8 | None:
        """Returns what was written in fp8, if the weight is read so."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for slot in ("exp_avg", "exp_avg_sq"):
                state[slot] = torch.zeros_like(parameter, dtype=self.moments)
        state["step"] = state["step"].cpu() + 1
        if self.clip_factor is None:
            self.clip_factor = torch.ones((), device=parameter.device)
        tensors = parameter, grad, state["exp_avg"], state["exp_avg_sq"]
        settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        settings["step"] = int(state["step"])
        coded = in_fp8(parameter)
        if coded is None:
            place = leaf(parameter)
            _update_of(parameter)(*tensors, None if place is parameter else place, self.clip_factor, **settings)
            for slot in CODES:  # of a checkpoint whose run was in fp8: true no longer
                state.pop(slot, None)
            return None
        from kaiyuan.model.kernels.adamw import update_coded

        update_coded(*tensors, *coded, self.clip_factor, holder(parameter).dtype, **settings)
        recoded(parameter)
        state.update(zip(CODES, (coded.codes.largest_E, coded.following_E), strict=True))
        return coded

    def resume_codes(self) -> None:
        """Take what a checkpoint says of codes in fp8, so that they are made as they were."""
        for parameter, state in self.state.items():
            if CODES[0] in state and hasattr(parameter, "compute_copy"):
                parameter.compute_copy.saved = tuple(state[slot] for slot in CODES)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                holder(parameter).grad = parameter.grad = None


def _shift_largest(coded: list[InFp8]) -> None:
    """The weights' largest numbers have given the scales of the codes that an update wrote, and it found those of the
    next. After all updates: before them a GPU would wait for it.
    """
    if coded:
        following, room = [found.following_E for found in coded], [found.room_E for found in coded]
        torch._foreach_copy_([found.codes.largest_E for found in coded], following)
        torch._foreach_copy_(following, room)
        torch._foreach_zero_(room)


def _update_of(parameter: Tensor) -> Callable[..., None]:
    """The update of one parameter: C++ on a CPU, a kernel on a GPU."""
    if parameter.device.type == "cpu" and not on_gpu(parameter):
        return operations.adamw
    from kaiyuan.model.kernels.adamw import update

    return update
