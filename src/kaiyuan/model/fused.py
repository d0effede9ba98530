"""When operations go through Triton kernels: on a GPU, where Triton is, for plain tensors of a training step.

On a CPU the same operations are C++ (``kaiyuan.model.native``), unless ``use_kernels(False)`` wants neither.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


_wanted = True
_pretended = False


def use_kernels(wanted: bool) -> None:
    """Turn the kernels of this process on (as they are at first) or off."""
    global _wanted
    _wanted = wanted


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within it any tensor counts as a GPU's, so that its code can be followed where there is none, on fake tensors."""
    global _pretended
    before, _pretended = _pretended, True
    try:
        yield
    finally:
        _pretended = before


def is_gpu(x: Tensor) -> bool:
    """Whether ``x`` is a GPU's tensor, or is to be treated as one."""
    return x.is_cuda or _pretended


def kernels_wanted() -> bool:
    """Whether this process wants kernels of ours at all."""
    return _wanted


def on_gpu(x: Tensor) -> bool:
    """Whether Triton kernels are wanted for ``x`` and can run on it: not on a tensor that is spread over devices."""
    return is_gpu(x) and _wanted and _has_triton() and not hasattr(x, "placements")


def fused(x: Tensor) -> bool:
    """Whether the kernels of ``kaiyuan.model.kernels`` compute what is done to ``x``; PyTorch alone does otherwise.

    Without gradients PyTorch's own operations serve: inference has kernels of its own.
    """
    return torch.is_grad_enabled() and on_gpu(x) and x.dtype != torch.float64
