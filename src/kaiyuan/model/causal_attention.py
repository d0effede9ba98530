"""Causal attention for CPUs, by blocks of queries.

PyTorch's CPU kernel for ``scaled_dot_product_attention`` is quick forwards and slow backwards. This one does what a
training step needs with plain batched matrix products: each block of queries meets only the keys up to its own end
(so about half of the square is never computed), the query heads that share a key head are one taller matrix, and the
probabilities are kept in the activations' dtype for the backward pass. Scores and softmax are float32, as in the
release. Measured in docs/lab-notes.md.

Shapes: B batch, H query heads, G key/value heads, R = H / G, T tokens, d head dimension, b block, S keys that a block
sees.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 128


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _by_key_head(x_BHTd: Tensor, kv_heads: int) -> Tensor:
    """(B, H, T, d) to (B * G, R, T, d): query heads of the same key head together."""
    batch, heads, length, size = x_BHTd.shape
    return x_BHTd.reshape(batch * kv_heads, heads // kv_heads, length, size)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, hidden_BTT: Tensor | None) -> Tensor:
        kv_heads, length, size = k_BGTd.shape[1:]
        q = _by_key_head(q_BHTd, kv_heads)
        k, v = k_BGTd.reshape(-1, length, size), v_BGTd.reshape(-1, length, size)
        q_float, k_float = (q * (1 / math.sqrt(size))).float(), k.float()
        future = torch.full((BLOCK, BLOCK), -math.inf).triu_(1)
        out, kept = torch.empty_like(q), []
        for start, end in _blocks(length):
            rows = end - start
            scores = torch.bmm(q_float[:, :, start:end].flatten(1, 2), k_float[:, :end].transpose(1, 2))
            if hidden_BTT is None:
                scores.view(len(q), -1, rows, end)[..., start:] += future[:rows, :rows]
            else:
                hidden = hidden_BTT[:, None, None, start:end, :end]
                scores.view(len(hidden), kv_heads, -1, rows, end).masked_fill_(hidden, -math.inf)
            probs = scores.softmax(-1).to(q.dtype)
            out[:, :, start:end] = torch.bmm(probs, v[:, :end]).view_as(out[:, :, start:end])
            kept.append(probs)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, k, v, out, *kept)
            ctx.shapes = (q_BHTd.shape, k_BGTd.shape)
        return out.view(q_BHTd.shape)

    @staticmethod
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *kept = ctx.saved_tensors
        length, size = k.shape[1:]
        grad = grad_BHTd.reshape(q.shape)
        delta = (grad * out).sum(-1, keepdim=True, dtype=torch.float32).to(q.dtype)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros(k.shape), torch.zeros(v.shape)
        for (start, end), probs in zip(_blocks(length), kept, strict=True):
            block_grad = grad[:, :, start:end].flatten(1, 2)
            grad_v[:, :end] += torch.bmm(probs.transpose(1, 2), block_grad)
            grad_scores = torch.bmm(block_grad, v[:, :end].transpose(1, 2))
            grad_scores.sub_(delta[:, :, start:end].flatten(1, 2)).mul_(probs)
            grad_q[:, :, start:end] = torch.bmm(grad_scores, k[:, :end]).view_as(grad_q[:, :, start:end])
            grad_k[:, :end] += torch.bmm(grad_scores.transpose(1, 2), q[:, :, start:end].flatten(1, 2))
        scale = 1 / math.sqrt(size)
        q_shape, k_shape = ctx.shapes
        return (
            grad_q.mul_(scale).view(q_shape),
            grad_k.mul_(scale).to(k.dtype).view(k_shape),
            grad_v.to(v.dtype).view(k_shape),
            None,
        )


def causal_attention(q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, mask_BTT: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d))`` over the past, times ``v``: (B, H, T, d). Queries and keys have the same T.

    ``mask_BTT`` is true where a query may look; it must not allow the future, and must allow every query itself.
    """
    return _CausalAttention.apply(q_BHTd, k_BGTd, v_BGTd, None if mask_BTT is None else ~mask_BTT)
