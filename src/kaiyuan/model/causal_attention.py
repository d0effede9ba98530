"""Causal attention for CPUs, by blocks of queries.

PyTorch's CPU kernel for ``scaled_dot_product_attention`` is quick forwards and slow backwards. This one does what a
training step needs with plain batched matrix products: each block of queries meets only the keys up to its own end
(so about half of the square is never computed), the query heads that share a key head are one taller matrix, and the
probabilities are kept in the activations' dtype for the backward pass (computed again where a sequence is long).
Scores and softmax are float32, as in the release. Measured in docs/lab-notes.md.

Queries may be fewer than keys: those of the last tokens, as on a rank that holds a part of the sequence.

Shapes: B batch, H query heads, G key/value heads, R = H / G, T queries, S keys, d head dimension, b block, s keys that
a block sees.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
KEPT = 2048
"""The most keys whose probabilities are kept: they grow with the square of the length."""


def _blocks(queries: int, keys: int) -> list[tuple[int, int, int]]:
    """First and last query of each block, and how many keys it sees."""
    past = keys - queries
    ends = [(start, min(start + BLOCK, queries)) for start in range(0, queries, BLOCK)]
    return [(start, end, past + end) for start, end in ends]


def _by_key_head(x_BHTd: Tensor, kv_heads: int) -> Tensor:
    """(B, H, T, d) to (B * G, R, T, d): query heads of the same key head together."""
    batch, heads, length, size = x_BHTd.shape
    return x_BHTd.reshape(batch * kv_heads, heads // kv_heads, length, size)


def _probabilities(
    q_float: Tensor, k_float: Tensor, documents_BS: Tensor | None, block: tuple[int, int, int], dtype: torch.dtype
) -> Tensor:
    """(B * G, R * b, s) for one of ``_blocks``."""
    start, end, seen = block
    rows = end - start
    scores = torch.bmm(q_float[:, :, start:end].flatten(1, 2), k_float[:, :seen].transpose(1, 2))
    future = torch.full((rows, rows), -math.inf, device=scores.device).triu_(1)
    scores.view(len(q_float), -1, rows, seen)[..., seen - rows :] += future
    if documents_BS is not None:
        other = documents_BS[:, seen - rows : seen, None] != documents_BS[:, None, :seen]
        scores.view(len(other), -1, rows, seen).masked_fill_(other[:, None], -math.inf)
    return scores.softmax(-1).to(dtype)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor, documents_BS: Tensor | None) -> Tensor:
        kv_heads, keys, size = k_BGSd.shape[1:]
        q = _by_key_head(q_BHTd, kv_heads)
        k, v = k_BGSd.reshape(-1, keys, size), v_BGSd.reshape(-1, keys, size)
        q_float, k_float = (q * (1 / math.sqrt(size))).float(), k.float()
        needed = any(ctx.needs_input_grad)
        out, kept = torch.empty_like(q), []
        for block in _blocks(q_BHTd.shape[2], keys):
            start, end, seen = block
            probs = _probabilities(q_float, k_float, documents_BS, block, q.dtype)
            out[:, :, start:end] = torch.bmm(probs, v[:, :seen]).view_as(out[:, :, start:end])
            if needed and keys <= KEPT:
                kept.append(probs)
        if needed:
            ctx.save_for_backward(q, k, v, out, documents_BS, *kept)
            ctx.shapes = (q_BHTd.shape, k_BGSd.shape)
        return out.view(q_BHTd.shape)

    @staticmethod
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, documents_BS, *kept = ctx.saved_tensors
        keys, size = k.shape[1:]
        scale = 1 / math.sqrt(size)
        grad = grad_BHTd.reshape(q.shape)
        delta = (grad * out).sum(-1, keepdim=True, dtype=torch.float32).to(q.dtype)
        q_float, k_float = (q, k) if kept else ((q * scale).float(), k.float())
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for number, block in enumerate(_blocks(q.shape[2], keys)):
            start, end, seen = block
            probs = kept[number] if kept else _probabilities(q_float, k_float, documents_BS, block, q.dtype)
            block_grad = grad[:, :, start:end].flatten(1, 2)
            grad_v[:, :seen] += torch.bmm(probs.transpose(1, 2), block_grad)
            grad_scores = torch.bmm(block_grad, v[:, :seen].transpose(1, 2))
            grad_scores.sub_(delta[:, :, start:end].flatten(1, 2)).mul_(probs)
            grad_q[:, :, start:end] = torch.bmm(grad_scores, k[:, :seen]).view_as(grad_q[:, :, start:end])
            grad_k[:, :seen] += torch.bmm(grad_scores.transpose(1, 2), q[:, :, start:end].flatten(1, 2))
        q_shape, k_shape = ctx.shapes
        return (
            grad_q.mul_(scale).view(q_shape),
            grad_k.mul_(scale).to(k.dtype).view(k_shape),
            grad_v.to(v.dtype).view(k_shape),
            None,
        )


def causal_attention(q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor, documents_BS: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d))`` over the past, times ``v``: (B, H, T, d). Queries are those of the last T tokens.

    ``documents_BS`` numbers the documents packed in a row; a query sees its own alone. No (T, S) tensor is built.
    """
    return _CausalAttention.apply(q_BHTd, k_BGSd, v_BGSd, documents_BS)
