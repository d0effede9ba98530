"""Sums of squares at memory's speed: PyTorch's norm of many tensors reads at half of it (docs/lab-notes.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 528
"""Four for each multiprocessor of an H100; each leaves one number, so the order of summation is fixed."""


@triton.jit
def _square_sum(x, out, count, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(program.to(tl.int64) * BLOCK, count, PROGRAMS * BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(x + i, i < count, 0.0).to(tl.float32)
        total += value * value
    tl.store(out + program, tl.sum(total, 0))


def square_sums(tensors: Sequence[Tensor]) -> Tensor:
    """float32 (len(tensors), 528), which add up to the sum of the squares of all numbers of contiguous ``tensors``."""
    out = torch.empty(len(tensors), PROGRAMS, dtype=torch.float32, device=tensors[0].device)
    for tensor, row in zip(tensors, out, strict=True):
        _square_sum[(PROGRAMS,)](tensor, row, tensor.numel(), PROGRAMS=PROGRAMS, BLOCK=8192, num_warps=8)
    return out
