"""A linear layer whose weight keeps its own precision and computes in that of its input.

That is all the mixed precision there is: parameters stay float32 for the optimiser, activations are bfloat16, and a
product casts its weight. No autocast rules to remember, and a float32 input gives a float32 product.

Where memory's speed matters (a GPU), a copy in the compute dtype is kept beside each float32 weight instead of cast
at every use. The copy is a leaf of its own: products read it, and its gradient, in the copy's dtype, is the weight's.
Products in fp8 read codes, which are kept beside the copy; then updates write the codes alone, and the copy is where
the gradient arrives (``holder``), filled again only if somebody wants to read it (``leaf``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from kaiyuan.model.kernels.fp8 import Codes


class InFp8(NamedTuple):
    """A weight's codes, and what the next ones need."""

    codes: Codes
    following_E: Tensor
    """float32; the largest number of each matrix as it is now, where ``codes.largest_E`` may be of one before."""
    room_E: Tensor
    """float32 zeros, for the next update's."""


class _Copy:
    """A leaf that follows its parameter, and its codes; ``version`` is the parameter's when they were last made."""

    def __init__(self, parameter: nn.Parameter, dtype: torch.dtype) -> None:
        self.leaf = parameter.detach().to(dtype).requires_grad_()
        self.version = parameter._version
        self.in_fp8: InFp8 | None = None
        """The same in fp8, once products have asked for it."""
        self.saved: tuple[Tensor, Tensor] | None = None
        """``codes.largest_E`` and ``following_E`` of a checkpoint, for codes that are still to be made."""
        self.filled, self.coded = True, False
        """Whether leaf and codes are those of the weight as it is now."""

    def _see(self, parameter: Tensor) -> None:
        if self.version != parameter._version:
            self.version, self.filled, self.coded = parameter._version, False, False

    def current(self, parameter: Tensor) -> Tensor:
        self._see(parameter)
        if not self.filled:
            with torch.no_grad():
                self.leaf.copy_(parameter)
            self.filled = True
        return self.leaf

    def current_in_fp8(self, parameter: Tensor) -> InFp8:
        from kaiyuan.model.kernels.fp8 import codes_of

        self._see(parameter)
        if not self.coded or self.in_fp8 is None:
            saved, self.saved = self.saved, None
            into = None if self.in_fp8 is None else self.in_fp8.codes
            codes = codes_of(self.current(parameter), into, None if saved is None else saved[0])
            following_E = codes.largest_E.clone() if saved is None else saved[1]
            self.in_fp8 = InFp8(codes, following_E, torch.zeros_like(following_E))
            self.coded = True
        return self.in_fp8


def keep_copies(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Keep a copy in ``dtype`` beside every one of ``parameters`` that has another.

    Call it when they are on their device; a parameter that changes later is copied anew at its next use.
    """
    for parameter in parameters:
        if parameter.dtype != dtype:
            parameter.compute_copy = _Copy(parameter, dtype)  # type: ignore[attr-defined]


def drop_copies(parameters: Iterable[nn.Parameter]) -> None:
    """Forget the copies of ``parameters``, gradients too."""
    for parameter in parameters:
        if hasattr(parameter, "compute_copy"):
            del parameter.compute_copy


def leaf(weight: Tensor) -> Tensor:
    """What products of ``weight`` read and where its gradient arrives: its copy, or itself without one."""
    copy = getattr(weight, "compute_copy", None)
    return weight if copy is None or copy.leaf.device != weight.device else copy.current(weight)


def holder(weight: Tensor) -> Tensor:
    """Where the gradient of ``weight`` arrives, as ``leaf``, for whoever does not read it: the copy is not brought up
    to date.
    """
    copy = getattr(weight, "compute_copy", None)
    return weight if copy is None or copy.leaf.device != weight.device else copy.leaf


def codes(weight: Tensor, dtype: torch.dtype) -> Codes:
    """``weight`` in fp8, of its copy if it has one: then they are made once for each of its values."""
    from kaiyuan.model.kernels.fp8 import codes_of

    copy = getattr(weight, "compute_copy", None)
    return codes_of(cast(weight, dtype)) if copy is None else copy.current_in_fp8(weight).codes


def in_fp8(parameter: Tensor) -> InFp8 | None:
    """What products read of ``parameter`` if that is codes, of the weight as it is now."""
    copy = getattr(parameter, "compute_copy", None)
    return None if copy is None or copy.in_fp8 is None else copy.current_in_fp8(parameter)


def recoded(parameter: Tensor) -> None:
    """Tell that a kernel has changed ``parameter`` and its codes in place, which PyTorch does not notice, and not the
    copy in the compute dtype.
    """
    parameter.compute_copy.filled = False  # type: ignore[attr-defined]


def gradient(parameter: nn.Parameter) -> Tensor | None:
    """The gradient of ``parameter``, wherever it has arrived."""
    place = holder(parameter)
    if place is not parameter and place.grad is not None and parameter.grad is not None:
        collect_gradients([parameter])
    return place.grad if parameter.grad is None else parameter.grad


def collect_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add the copies' gradients to those of the parameters, in float32: between micro-batches, where sums are long."""
    for parameter in parameters:
        place = holder(parameter)
        if place is parameter or place.grad is None:
            continue
        if parameter.grad is None:
            parameter.grad = place.grad.to(parameter.dtype)
        else:
            parameter.grad.add_(place.grad)
        place.grad = None


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight`` in ``dtype``, from its copy if it has one."""
    return leaf(weight).to(dtype)


class Linear(nn.Module):
    """``x @ weight.T`` with ``weight`` (out, in), without bias, in the dtype of ``x``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, cast(self.weight, x.dtype))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"
