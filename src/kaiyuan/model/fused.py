"""When operations go through Triton kernels: on a GPU, where Triton is, for plain tensors of a training step."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def on_gpu(x: Tensor) -> bool:
    """Whether Triton kernels can run on ``x``."""
    return x.is_cuda and _has_triton()


def fused(x: Tensor) -> bool:
    """Whether the kernels of ``kaiyuan.model.kernels`` compute what is done to ``x``; PyTorch alone does otherwise.

    Without gradients PyTorch's own operations serve: inference has kernels of its own.
    """
    return torch.is_grad_enabled() and on_gpu(x) and x.dtype != torch.float64
