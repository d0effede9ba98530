"""Grouped-query attention with QK-norm and cross-layer sharing of keys and values (paper 2.2.1 and 2.2.2).

A layer that owns keys and values hands them to the next ``cla_share_factor - 1`` layers. Every layer has a key gain
of its own, which would make each layer's keys different; but ``q . (gain * k) = (q * gain) . k``, so what is shared
(and cached) is the normalised key *without* gain, and each layer folds its key gain into its query. That is exact,
and it is what lets one cache serve the whole group.

Shapes: B batch, T queries, S keys, D hidden size, H query heads, G key/value heads, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.causal_attention import causal_attention
from kaiyuan.model.config import LayerShape, ModelConfig
from kaiyuan.model.fused import fused, is_gpu
from kaiyuan.model.linear import Linear, codes, holder
from kaiyuan.model.norm import RMSNorm, rope_norm
from kaiyuan.model.rope import rotate


class KeyValue(NamedTuple):
    """Keys (normalised, rotated, without gain) and values of one producing layer, each (B, G, S, d)."""

    k_BGSd: Tensor
    v_BGSd: Tensor


class Cache(Protocol):
    """Keeps keys and values from one forward pass to the next."""

    def extend(self, producer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Take the new keys and values of one producing layer; returns those to attend to."""
        ...


class Documents(NamedTuple):
    """The documents packed in the rows of a batch, and the queries that come from each."""

    ids_BS: Tensor
    """int64; grows by any amount where a document starts."""
    bounds: Tensor
    """int32; where each document starts in the batch read row by row, and the end. On a GPU only (else empty)."""
    query_bounds: Tensor
    """int32; the same among the queries, read row by row."""
    longest: int

    @classmethod
    def of(cls, ids_BS: Tensor, queries: int | None = None) -> Documents:
        """For queries of the last ``queries`` tokens of each row, or of all.

        Reads the bounds back from a GPU, once for all layers: the one thing there that waits for the device.
        """
        length = ids_BS.shape[1]
        if not ids_BS.is_cuda:
            nothing = ids_BS.new_empty(0, dtype=torch.int32)
            return cls(ids_BS, nothing, nothing, length)
        bounds, query_bounds = _bounds(ids_BS, length if queries is None else queries)
        return cls(ids_BS, bounds.int(), query_bounds.int(), int(bounds.diff().max()))


class Context(NamedTuple):
    """What all layers of one forward pass share."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    """Boolean (B, 1, T, S), true where a query may look; None for causal attention."""
    cache: Cache | None = None
    dropout: float = 0.0
    attend: Callable[[int, Tensor], Tensor] | None = None
    """Replaces attention where the cache's keys are not one tensor: ``attend(producer, q_BHTd)`` gives (B, H, T, d)."""
    documents: Documents | None = None
    """Documents packed in the rows, none of which sees another; takes the place of a mask."""


class Attention(nn.Module):
    """One layer's attention. ``forward`` takes (B, T, D) and returns (B, T, D) and the keys and values to share."""

    fp8 = False
    """Multiply the projections in fp8, forwards and to their inputs (on a GPU); see ``kernels.projections``."""

    def __init__(self, config: ModelConfig, layer: LayerShape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_kv_heads, config.head_dim
        self.producer, self.owns_kv = layer.producer, layer.owns_kv
        self.q_proj = Linear(config.hidden_size, self.heads * self.head_dim)
        if layer.owns_kv:
            self.k_proj = Linear(config.hidden_size, self.kv_heads * self.head_dim)
            self.v_proj = Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = Linear(self.heads * self.head_dim, config.hidden_size)
        self.norm_eps = config.norm_eps
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    @property
    def uses(self) -> int:
        """How many products take the input."""
        return 3 if self.owns_kv else 1

    def forward(
        self, x_BTD: Tensor, shared: KeyValue | None, context: Context, *again: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """``again`` may hold ``x`` for the other ``uses``, whose gradients then add up elsewhere (RMSNorm.beside)."""
        projections = [self.q_proj, self.k_proj, self.v_proj] if self.owns_kv else [self.q_proj]
        q, *key_value = self._products(projections, [x_BTD, *(again or [x_BTD] * (self.uses - 1))])
        q_BHTd = self._query(q, context)
        if self.owns_kv:
            shared = self._key_value(context, *key_value)
        assert shared is not None, "a layer without keys and values needs those of its producer"
        if context.attend is not None:
            out_BHTd = context.attend(self.producer, q_BHTd)
        else:
            dropout = context.dropout if self.training else 0.0
            out_BHTd = attend(q_BHTd, shared, context.mask, dropout, context.documents)
        (out_BTD,) = self._products([self.o_proj], [out_BHTd.transpose(1, 2).flatten(2)])
        return out_BTD, shared

    def _products(self, layers: Sequence[nn.Module], uses: Sequence[Tensor]) -> list[Tensor]:
        """What each of ``layers`` makes of its own one of ``uses``, which are all the same (B, T, inputs)."""
        x = uses[0]
        weights = [layer.weight for layer in layers if isinstance(layer, Linear)]
        if not (self.fp8 and fused(x) and len(weights) == len(layers)):
            return [layer(use) for layer, use in zip(layers, uses, strict=True)]
        from kaiyuan.model.kernels.projections import projections

        coded = [codes(weight, x.dtype) for weight in weights]
        return projections(uses, [holder(weight).to(x.dtype) for weight in weights], coded)

    def _query(self, q: Tensor, context: Context) -> Tensor:
        q_BTHd = q.unflatten(-1, (self.heads, self.head_dim))
        if self.q_norm is None or self.k_norm is None:
            return rotate(q_BTHd, context.cos.to(q_BTHd.dtype), context.sin.to(q_BTHd.dtype)).transpose(1, 2)
        gain = self.q_norm.weight * self.k_norm.weight
        return rope_norm(q_BTHd, context.cos, context.sin, gain, self.norm_eps).transpose(1, 2)

    def _key_value(self, context: Context, k: Tensor, v: Tensor) -> KeyValue:
        k_BTGd, v_BTGd = (each.unflatten(-1, (self.kv_heads, self.head_dim)) for each in (k, v))
        if self.k_norm is None:
            k_BTGd = rotate(k_BTGd, context.cos.to(k_BTGd.dtype), context.sin.to(k_BTGd.dtype))
        else:
            k_BTGd = rope_norm(k_BTGd, context.cos, context.sin, None, self.norm_eps)
        new = KeyValue(k_BTGd.transpose(1, 2), v_BTGd.transpose(1, 2))
        return new if context.cache is None else KeyValue(*context.cache.extend(self.producer, *new))


def attend(
    q_BHTd: Tensor, shared: KeyValue, mask: Tensor | None, dropout: float = 0.0, documents: Documents | None = None
) -> Tensor:
    """Scaled dot-product attention (B, H, T, d) over shared keys and values: causal if there is no ``mask``, and within
    ``documents`` if they are given.
    """
    if mask is None and q_BHTd.device.type == "cpu" and not is_gpu(q_BHTd) and dropout == 0:
        whole = shared.k_BGSd.shape[2] == q_BHTd.shape[2]
        if documents is not None or (whole and q_BHTd.requires_grad):
            return causal_attention(q_BHTd, *shared, None if documents is None else documents.ids_BS)
    if documents is not None:
        if _has_flash(q_BHTd):
            return flash_attention(q_BHTd, *shared, documents, dropout)
        mask = document_mask(documents.ids_BS)
    with _backends(q_BHTd, mask):
        return F.scaled_dot_product_attention(
            q_BHTd,
            *shared,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            enable_gqa=q_BHTd.shape[1] != shared.k_BGSd.shape[1],
        )


def _backends(q: Tensor, mask: Tensor | None) -> AbstractContextManager[None]:
    """In training on a GPU cuDNN's kernels first: forwards and backwards they are faster than PyTorch's own.

    They are planned anew for every shape, so only for round lengths, as those of pre-training are.
    """
    short = q.dtype in (torch.bfloat16, torch.float16)
    if not (q.is_cuda and q.requires_grad and short and mask is None and q.shape[2] % 128 == 0):
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def attend_last(q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor, documents: Documents | None = None) -> Tensor:
    """Causal attention (B, H, T, d) of queries of the last T of S tokens; no (T, S) mask is built."""
    if _has_flash(q_BHTd):
        return flash_attention(q_BHTd, k_BGSd, v_BGSd, documents)
    return causal_attention(q_BHTd, k_BGSd, v_BGSd, None if documents is None else documents.ids_BS)


def _has_flash(q: Tensor) -> bool:
    return is_gpu(q) and q.dtype in (torch.bfloat16, torch.float16)


def flash_attention(
    q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor, documents: Documents | None, dropout: float = 0.0
) -> Tensor:
    """Causal attention on a GPU, of queries of the last T of S tokens, each within its own one of ``documents``: flash
    attention, which aligns the last query with the last key, over sequences of different lengths.
    """
    batch, _, length, _ = q_BHTd.shape
    q, k, v = (x.transpose(1, 2) for x in (q_BHTd, k_BGSd, v_BGSd))
    if documents is None:
        return _flash(q, k, v, None, None, length, k.shape[1], dropout).transpose(1, 2)
    bounds, longest = documents.bounds, documents.longest
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    out = _flash(q, k, v, documents.query_bounds, bounds, min(longest, length), longest, dropout)
    return out.unflatten(0, (batch, length)).transpose(1, 2)


def _flash(q: Tensor, k: Tensor, v: Tensor, *bounds_and_dropout: Tensor | float | None) -> Tensor:
    return torch.ops.aten._flash_attention_forward(q, k, v, *bounds_and_dropout, True, False)[0]


def document_mask(document_ids_BT: Tensor) -> Tensor:
    """Boolean (B, 1, T, T): a token sees itself and earlier tokens of its own document. Quadratic: the reference."""
    same = document_ids_BT[:, None, :, None] == document_ids_BT[:, None, None, :]
    length = document_ids_BT.shape[1]
    return same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()


def document_positions(document_ids_BT: Tensor) -> Tensor:
    """int64 (B, T): each token's place within its own document, counting from 0."""
    length = document_ids_BT.shape[1]
    places = torch.arange(length, device=document_ids_BT.device).expand_as(document_ids_BT)
    return places - torch.where(_starts(document_ids_BT), places, 0).cummax(dim=1).values


def _bounds(ids_BS: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Where each document starts in the batch read row by row, and the end; and the same among the last ``queries``
    tokens of each row read row by row. A document that ended before them has none.
    """
    length = ids_BS.shape[1]
    bounds = F.pad(_starts(ids_BS).flatten().nonzero().squeeze(1), (0, 1), value=ids_BS.numel())
    return bounds, bounds // length * queries + (bounds % length - (length - queries)).clamp(min=0)


def _starts(document_ids_BT: Tensor) -> Tensor:
    """bool (B, T): the first token of every document, and of every row."""
    starts = torch.ones_like(document_ids_BT, dtype=torch.bool)
    starts[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    return starts
