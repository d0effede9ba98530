"""Loss and gradient of a block of logits, in place: logits are read twice and written once. Shapes: N rows, V words.

The plain form: ``weight * (logsumexp(logits) - logits[target])`` and its gradient ``weight * (softmax - one_hot)``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _cross_entropy_rows(logits, target, weight, loss, words, GRAD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    start_of = logits + row.to(tl.int64) * words
    picked = tl.load(target + row).to(tl.int32)
    scale = tl.load(weight + row)
    at_target = tl.load(start_of + picked).to(tl.float32)
    most, total = tl.full((BLOCK,), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, words, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(start_of + i, i < words, float("-inf")).to(tl.float32)
        higher = tl.maximum(most, value)
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(most - safe) + tl.exp(value - safe)
        most = higher
    highest = tl.max(most, 0)
    normalizer = highest + tl.log(tl.sum(total * tl.exp(most - highest), 0))
    tl.store(loss + row, scale * (normalizer - at_target))
    if GRAD:
        for start in range(0, words, BLOCK):
            i = start + tl.arange(0, BLOCK)
            value = tl.load(start_of + i, i < words, float("-inf")).to(tl.float32)
            found = scale * (tl.exp(value - normalizer) - tl.where(i == picked, 1.0, 0.0))
            tl.store(start_of + i, found.to(logits.dtype.element_ty), i < words)


def cross_entropy_(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor, grad: bool = True) -> Tensor:
    """Float32 (N,) weighted losses in nats; ``logits_NV`` becomes the gradient of their sum if ``grad``."""
    rows, words = logits_NV.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits_NV.device)
    if rows:
        _cross_entropy_rows[(rows,)](
            logits_NV, targets_N.contiguous(), weights_N.contiguous(), losses, words,
            GRAD=grad, BLOCK=min(4096, triton.next_power_of_2(words)), num_warps=8,
        )  # fmt: skip
    return losses
