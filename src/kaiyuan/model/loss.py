"""Cross-entropy straight from features and head weight, a block of rows at a time.

The logits of a batch are the largest tensor of training (131,072 tokens x 128,512 words in float32: 63 GiB). Here
each block's logits exist only while its loss and its gradients are computed, which happens in the forward pass: their
gradient is known up to the scalar that comes from above.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.fused import is_gpu, on_gpu
from kaiyuan.model.linear import leaf
from kaiyuan.model.native import operations
from kaiyuan.model.native.library import native


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, rows: int) -> Tensor:
        head = head_VD.to(x_ND.dtype)
        kernel = _kernel(x_ND)
        total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        need_x, need_head = ctx.needs_input_grad[:2]
        grad_x = torch.empty_like(x_ND) if need_x else None
        grad_head = torch.zeros_like(head_VD, dtype=torch.float32) if need_head else None
        for start in range(0, len(x_ND), rows):
            block = slice(start, start + rows)
            logits_NV = F.linear(x_ND[block], head)
            if kernel is not None:
                need = need_x or need_head
                total += kernel(logits_NV, targets_N[block], weights_N[block], grad=need).sum()
                _add_gradients(logits_NV, x_ND[block], head, None if grad_x is None else grad_x[block], grad_head)
                continue
            probs_NV = torch.softmax(logits_NV, dim=-1, dtype=torch.float32)
            total += (_negative_log_prob(logits_NV, probs_NV, targets_N[block]) * weights_N[block]).sum()
            if grad_x is None and grad_head is None:
                continue
            probs_NV.scatter_add_(1, targets_N[block, None], torch.full_like(probs_NV[:, :1], -1.0))
            grad_logits = probs_NV.mul_(weights_N[block, None]).to(x_ND.dtype)
            _add_gradients(grad_logits, x_ND[block], head, None if grad_x is None else grad_x[block], grad_head)
        ctx.save_for_backward(grad_x, grad_head)
        ctx.head_dtype = head_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_head = ctx.saved_tensors
        return (
            None if grad_x is None else grad_x.mul_(grad),
            None if grad_head is None else grad_head.mul_(grad).to(ctx.head_dtype),
            None,
            None,
            None,
        )


def _kernel(x: Tensor) -> Callable[..., Tensor] | None:
    """Loss and gradient of a block of logits are one kernel on a GPU, and one call on a CPU."""
    if native(x):
        return operations.cross_entropy_
    if not on_gpu(x):
        return None
    from kaiyuan.model.kernels.cross_entropy import cross_entropy_

    return cross_entropy_


def _add_gradients(
    grad_NV: Tensor, x_ND: Tensor, head_VD: Tensor, grad_x_ND: Tensor | None, grad_head_VD: Tensor | None
) -> None:
    """From a block's logits to its features, and added to the head."""
    if grad_x_ND is not None:
        torch.mm(grad_NV, head_VD, out=grad_x_ND)
    if grad_head_VD is None:
        return
    if grad_head_VD.is_cuda and not hasattr(x_ND, "placements") and x_ND.dtype in (torch.bfloat16, torch.float16):
        # A library's product that adds to float32: no pass for the sum, and no rounding of what is added. There is
        # none on a CPU, nor for fake tensors that stand for a GPU's.
        torch.addmm(grad_head_VD, grad_NV.t(), x_ND, out_dtype=torch.float32, out=grad_head_VD)
    else:
        grad_head_VD += grad_NV.t() @ x_ND


def _negative_log_prob(logits_NV: Tensor, probs_NV: Tensor, targets_N: Tensor) -> Tensor:
    """``-log p(target)``, float32. Not from the target's own probability, which may be 0 in float32: the greatest
    probability is ``1 / sum exp(logit - greatest logit)``, so its logarithm gives the normaliser.
    """
    picked_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1).float()
    return logits_NV.amax(dim=-1).float() - picked_N - probs_NV.amax(dim=-1).log()


def cross_entropy_sum(
    x: Tensor, head_VD: Tensor, targets: Tensor, weights: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """Sum over tokens of ``weight * -log p(target)`` in nats: a float32 scalar.

    ``x`` (..., D) are the model's features, ``targets`` (...) int64 token ids; ``weights`` (...) float32 default to
    1; rows that do not count cost nothing on a CPU. The gradient can be taken once (it is consumed in place). Divide
    by the weights' sum for the usual mean.
    """
    x_ND, targets_N = x.flatten(0, -2), targets.flatten()
    weights_N = torch.ones_like(targets_N, dtype=torch.float32) if weights is None else weights.flatten().float()
    if not is_gpu(x):  # a GPU would have to be waited for to learn which rows count
        (counting,) = weights_N.nonzero(as_tuple=True)
        if len(counting) < len(weights_N):
            x_ND, targets_N, weights_N = x_ND[counting], targets_N[counting], weights_N[counting]
    return _ChunkedCrossEntropy.apply(x_ND, leaf(head_VD), targets_N, weights_N, rows or block_rows(x, len(head_VD)))


def block_rows(x: Tensor, words: int) -> int:
    """Rows of a block: what stays in a CPU's cache, or what fills a GPU (2^28 logits, half a GiB in bfloat16)."""
    return 512 if not is_gpu(x) else max(128, 2**28 // words // 128 * 128)


class _TargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, head_VD: Tensor, targets_N: Tensor, rows: int) -> Tensor:
        head = head_VD.to(x_ND.dtype)
        picked, normalizers = [], []
        for start in range(0, len(x_ND), rows):
            logits_NV = F.linear(x_ND[start : start + rows], head).float()
            normalizers.append(torch.logsumexp(logits_NV, dim=-1))
            picked.append(logits_NV.gather(1, targets_N[start : start + rows, None]).squeeze(1) - normalizers[-1])
        ctx.save_for_backward(x_ND, head_VD, targets_N, torch.cat(normalizers))
        ctx.rows = rows
        return torch.cat(picked)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, head_VD, targets_N, normalizers_N = ctx.saved_tensors
        head = head_VD.to(x_ND.dtype)
        grad_x, grad_head = torch.empty_like(x_ND), torch.zeros_like(head_VD, dtype=torch.float32)
        for start in range(0, len(x_ND), ctx.rows):
            block = slice(start, start + ctx.rows)
            probs_NV = (F.linear(x_ND[block], head).float() - normalizers_N[block, None]).exp_()
            grad_NV = probs_NV.mul_(-grad_N[block, None])
            grad_NV.scatter_add_(1, targets_N[block, None], grad_N[block, None])
            _add_gradients(grad_NV.to(x_ND.dtype), x_ND[block], head, grad_x[block], grad_head)
        return grad_x, grad_head.to(head_VD.dtype), None, None


def target_log_probs(x: Tensor, head_VD: Tensor, targets: Tensor, rows: int | None = None) -> Tensor:
    """``log p(target)`` of every token, float32, shaped like ``targets``; differentiable, without keeping logits."""
    flat = _TargetLogProbs.apply(
        x.flatten(0, -2), leaf(head_VD), targets.flatten(), rows or block_rows(x, len(head_VD))
    )
    return flat.view(targets.shape)
