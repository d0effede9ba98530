"""Causal attention for CPUs, by blocks of queries.

PyTorch's CPU kernel for ``scaled_dot_product_attention`` is quick forwards and slow backwards. This one does what a
training step needs with plain batched matrix products: each block of queries meets only the keys up to its own end
(so about half of the square is never computed), the query heads that share a key head are one taller matrix, and the
probabilities are kept in the activations' dtype for the backward pass (computed again where a sequence is long).
Scores and softmax are float32, as in the release. Measured in docs/lab-notes.md.

Shapes: B batch, H query heads, G key/value heads, R = H / G, T tokens, d head dimension, b block, S keys that a block
sees.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
KEPT = 2048
"""The longest sequence whose probabilities are kept: they grow with its square."""


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _by_key_head(x_BHTd: Tensor, kv_heads: int) -> Tensor:
    """(B, H, T, d) to (B * G, R, T, d): query heads of the same key head together."""
    batch, heads, length, size = x_BHTd.shape
    return x_BHTd.reshape(batch * kv_heads, heads // kv_heads, length, size)


def _probabilities(
    q_float: Tensor, k_float: Tensor, documents_BT: Tensor | None, start: int, end: int, dtype: torch.dtype
) -> Tensor:
    """(B * G, R * b, S) for the queries from ``start`` to ``end`` and all keys before ``end``."""
    rows = end - start
    scores = torch.bmm(q_float[:, :, start:end].flatten(1, 2), k_float[:, :end].transpose(1, 2))
    future = torch.full((rows, rows), -math.inf).triu_(1)
    scores.view(len(q_float), -1, rows, end)[..., start:] += future
    if documents_BT is not None:
        other = documents_BT[:, start:end, None] != documents_BT[:, None, :end]
        scores.view(len(other), -1, rows, end).masked_fill_(other[:, None], -math.inf)
    return scores.softmax(-1).to(dtype)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, documents_BT: Tensor | None) -> Tensor:
        kv_heads, length, size = k_BGTd.shape[1:]
        q = _by_key_head(q_BHTd, kv_heads)
        k, v = k_BGTd.reshape(-1, length, size), v_BGTd.reshape(-1, length, size)
        q_float, k_float = (q * (1 / math.sqrt(size))).float(), k.float()
        needed = any(ctx.needs_input_grad)
        out, kept = torch.empty_like(q), []
        for start, end in _blocks(length):
            probs = _probabilities(q_float, k_float, documents_BT, start, end, q.dtype)
            out[:, :, start:end] = torch.bmm(probs, v[:, :end]).view_as(out[:, :, start:end])
            if needed and length <= KEPT:
                kept.append(probs)
        if needed:
            ctx.save_for_backward(q, k, v, out, documents_BT, *kept)
            ctx.shapes = (q_BHTd.shape, k_BGTd.shape)
        return out.view(q_BHTd.shape)

    @staticmethod
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, documents_BT, *kept = ctx.saved_tensors
        length, size = k.shape[1:]
        scale = 1 / math.sqrt(size)
        grad = grad_BHTd.reshape(q.shape)
        delta = (grad * out).sum(-1, keepdim=True, dtype=torch.float32).to(q.dtype)
        q_float, k_float = (q, k) if kept else ((q * scale).float(), k.float())
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros(k.shape), torch.zeros(v.shape)
        for block, (start, end) in enumerate(_blocks(length)):
            probs = kept[block] if kept else _probabilities(q_float, k_float, documents_BT, start, end, q.dtype)
            block_grad = grad[:, :, start:end].flatten(1, 2)
            grad_v[:, :end] += torch.bmm(probs.transpose(1, 2), block_grad)
            grad_scores = torch.bmm(block_grad, v[:, :end].transpose(1, 2))
            grad_scores.sub_(delta[:, :, start:end].flatten(1, 2)).mul_(probs)
            grad_q[:, :, start:end] = torch.bmm(grad_scores, k[:, :end]).view_as(grad_q[:, :, start:end])
            grad_k[:, :end] += torch.bmm(grad_scores.transpose(1, 2), q[:, :, start:end].flatten(1, 2))
        q_shape, k_shape = ctx.shapes
        return (
            grad_q.mul_(scale).view(q_shape),
            grad_k.mul_(scale).to(k.dtype).view(k_shape),
            grad_v.to(v.dtype).view(k_shape),
            None,
        )


def causal_attention(q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d))`` over the past, times ``v``: (B, H, T, d). Queries and keys have the same T.

    ``documents_BT`` numbers the documents packed in a row; a query sees its own alone. No (T, T) tensor is built.
    """
    return _CausalAttention.apply(q_BHTd, k_BGTd, v_BGTd, documents_BT)
