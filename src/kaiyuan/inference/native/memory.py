"""Memory for weights in pages of 2 MiB where the system gives them.

With pages of 4 KiB, steps that stream a gigabyte of weights take 5 to 9% longer (docs/lab-notes.md).
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor

_CHUNK = 64 * 2**20
_LINE = 64


class Arena:
    """Hands out tensors from large chunks; a chunk lives as long as one of its tensors."""

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of ``tensor``, contiguous, at the start of a cache line."""
        size = tensor.numel() * tensor.element_size()
        if self._used + size > len(self._chunk):
            self._chunk, self._used = _pages(max(size, _CHUNK)), 0
        place = self._chunk[self._used : self._used + size].view(tensor.dtype).view(tensor.shape)
        self._used += math.ceil(size / _LINE) * _LINE
        return place.copy_(tensor)


def _pages(size: int) -> Tensor:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
