"""Letting a module compute with this rank's part of weights that are divided among ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate


@contextlib.contextmanager
def local_weights(module: nn.Module) -> Iterator[None]:
    """Within it, ``module`` and its children see plain tensors: this rank's part of every ``DTensor``.

    A replicated weight's gradient is partial: every rank has used it for its own heads.
    """
    changed: list[tuple[dict[str, Any], str, DTensor]] = []
    for child in module.modules():
        own: dict[str, Any] = child._parameters
        changed += [(own, name, weight) for name, weight in own.items() if isinstance(weight, DTensor)]
    for own, name, weight in changed:
        grads = [Partial() if isinstance(place, Replicate) else place for place in weight.placements]
        own[name] = weight.to_local(grad_placements=grads)
    try:
        yield
    finally:
        for own, name, weight in changed:
            own[name] = weight


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Let this one module compute ``forward(*inputs)``; its hooks, names and weights stay."""
    object.__setattr__(module, "forward", forward)
