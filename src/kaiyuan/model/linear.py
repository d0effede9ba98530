"""A linear layer whose weight keeps its own precision and computes in that of its input.

That is all the mixed precision there is: parameters stay float32 for the optimiser, activations are bfloat16, and
every product casts its weight once. No autocast rules to remember, and a float32 input gives a float32 product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """``x @ weight.T`` with ``weight`` (out, in), without bias, in the dtype of ``x``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"
