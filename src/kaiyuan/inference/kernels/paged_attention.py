"""Attention of new tokens over pages, each row by its own table; and the keys and values put there.

Shapes: N rows (one new token each), H query heads, G key/value heads, d head dimension, P pages, b tokens of a page,
K splits of a row's keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST_SCALE = tl.constexpr(2.0**-14)


class Store(NamedTuple):
    """Keys or values of one layer: (P * b, G, d) and, for int8, float16 scales (P * b, G, 1)."""

    data: Tensor
    scale: Tensor | None


class Rows(NamedTuple):
    """Where each row stands: the pages of all sequences, int32 (slots, pages), and for each row its sequence's slot
    and its own position, int32 (N,).

    A row at position -1 is padding: nothing is kept of it, and it attends to nothing (its result is 0).
    """

    tables: Tensor
    slot_N: Tensor
    position_N: Tensor
    page_size: int


@triton.jit
def _keep(first, second, store, scales, place, size, j, CODED: tl.constexpr):
    """Both halves of one head's key or value, in the form that ``store`` has."""
    half = size // 2
    if CODED:
        largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0))
        scale = tl.maximum(largest / 127, _LEAST_SCALE).to(tl.float16)
        tl.store(scales + place, scale)
        first = tl.floor(tl.minimum(tl.maximum(first / scale.to(tl.float32), -127.0), 127.0) + 0.5)
        second = tl.floor(tl.minimum(tl.maximum(second / scale.to(tl.float32), -127.0), 127.0) + 0.5)
    elif store.dtype.element_ty == tl.float8e4nv:
        first = tl.minimum(tl.maximum(first, -448.0), 448.0)
        second = tl.minimum(tl.maximum(second, -448.0), 448.0)
    tl.store(store + place * size + j, first.to(store.dtype.element_ty), j < half)
    tl.store(store + place * size + half + j, second.to(store.dtype.element_ty), j < half)


@triton.jit
def _turn_kernel(
    qkv, gain, frequencies, query, keys, key_scales, values, value_scales, tables, slots, positions, longest, eps,
    heads, kv_heads, size, width,
    NORM: tl.constexpr, CODED: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    position = tl.load(positions + row)
    half, j = size // 2, tl.arange(0, HALF)
    source = qkv + row * width + head * size
    first = tl.load(source + j, j < half, 0.0).to(tl.float32)
    second = tl.load(source + half + j, j < half, 0.0).to(tl.float32)
    if head < heads + kv_heads:
        if NORM:
            inverse = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / size + eps)
            first, second = first * inverse, second * inverse
        angle = position.to(tl.float32) * tl.load(frequencies + j, j < half, 0.0)
        cos, sin = tl.cos(angle), tl.sin(angle)
        first, second = first * cos - second * sin, second * cos + first * sin
    if head < heads:
        if NORM:
            first *= tl.load(gain + j, j < half, 0.0).to(tl.float32)
            second *= tl.load(gain + half + j, j < half, 0.0).to(tl.float32)
        target = query + (row * heads + head) * size
        tl.store(target + j, first.to(query.dtype.element_ty), j < half)
        tl.store(target + half + j, second.to(query.dtype.element_ty), j < half)
    elif position >= 0:
        page = tl.load(tables + tl.load(slots + row) * longest + position // PAGE)
        place = (page.to(tl.int64) * PAGE + position % PAGE) * kv_heads + (head - heads) % kv_heads
        if head < heads + kv_heads:
            _keep(first, second, keys, key_scales, place, size, j, CODED)
        else:
            _keep(first, second, values, value_scales, place, size, j, CODED)


def turn_and_keep(
    qkv_NW: Tensor, query_NHd: Tensor, keys: Store, values: Store, rows: Rows, frequencies: Tensor,
    gain: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Queries of ``qkv`` (N, (H [+ 2 G]) * d), normalised, rotated and with ``gain``; if there are keys and values
    behind them, those go into the store, the keys normalised and rotated. Without ``gain`` nothing is normalised.
    """
    (count, width), (_, heads, size) = qkv_NW.shape, query_NHd.shape
    kv_heads = keys.data.shape[1]
    _turn_kernel[count, width // size](
        qkv_NW, gain, frequencies, query_NHd, keys.data, keys.scale, values.data, values.scale,
        rows.tables, rows.slot_N, rows.position_N, rows.tables.shape[1], eps, heads, kv_heads, size, width,
        NORM=gain is not None, CODED=keys.scale is not None, HALF=triton.next_power_of_2(size // 2),
        PAGE=rows.page_size, num_warps=1,
    )  # fmt: skip
    return query_NHd


@triton.jit
def _load(store, scales, place, inside, i, size, dtype: tl.constexpr, CODED: tl.constexpr):
    x = tl.load(store + place[:, None] * size + i[None, :], inside[:, None] & (i < size)[None, :], 0.0).to(dtype)
    if CODED:
        x = x * tl.load(scales + place, inside, 0.0).to(dtype)[:, None]
    return x


@triton.jit
def _attention_kernel(
    query, keys, key_scales, values, value_scales, tables, slots, positions, longest, out, norms,
    heads, kv_heads, size, splits, scale,
    CODED: tl.constexpr, SHARERS: tl.constexpr, R: tl.constexpr, S: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One row's heads that share keys, over one split of the keys: what it adds up to and the log of the weights."""
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(positions + row) + 1
    table = tables + tl.load(slots + row) * longest
    share = tl.cdiv(tl.cdiv(length, S), splits) * S
    start = split * share
    end = tl.minimum(start + share, length)
    r, i = tl.arange(0, R), tl.arange(0, D)
    head = group * SHARERS + r
    at = (row * heads + head)[:, None] * size + i[None, :]
    q = tl.load(query + at, (r < SHARERS)[:, None] & (i < size)[None, :], 0.0)
    most = tl.full((R,), -1e30, tl.float32)
    sums, acc = tl.zeros((R,), tl.float32), tl.zeros((R, D), tl.float32)
    for first in range(start, end, S):
        t = first + tl.arange(0, S)
        inside = t < end
        page = tl.load(table + t // PAGE, inside, 0)
        place = (page.to(tl.int64) * PAGE + t % PAGE) * kv_heads + group
        k = _load(keys, key_scales, place, inside, i, size, q.dtype, CODED)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(most - higher)
        v = _load(values, value_scales, place, inside, i, size, q.dtype, CODED)
        acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
        sums, most = sums * fade + tl.sum(weights, 1), higher
    acc = acc / tl.maximum(sums, 1e-30)[:, None]
    part = (row * heads + head) * splits + split
    inside = (r < SHARERS)[:, None] & (i < size)[None, :]
    tl.store(out + part[:, None] * size + i[None, :], acc.to(out.dtype.element_ty), inside)
    tl.store(norms + part, tl.where(sums > 0, most + tl.log(sums), float("-inf")), r < SHARERS)


@triton.jit
def _join_kernel(parts, norms, out, splits, size, K: tl.constexpr, D: tl.constexpr):
    """The splits of one head, each by its share of the weights."""
    head, k, i = tl.program_id(0), tl.arange(0, K), tl.arange(0, D)
    norm = tl.load(norms + head * splits + k, k < splits, float("-inf"))
    weight = tl.exp(norm - tl.maximum(tl.max(norm, 0), -1e30))
    places = (head * splits + k)[:, None] * size + i[None, :]
    part = tl.load(parts + places, (k < splits)[:, None] & (i < size)[None, :], 0.0)
    mean = tl.sum(part * weight[:, None], 0) / tl.maximum(tl.sum(weight, 0), 1e-30)
    tl.store(out + head * size + i, mean.to(out.dtype.element_ty), i < size)


def paged_attention(
    query_NHd: Tensor, keys: Store, values: Store, rows: Rows, out_NHd: Tensor, *, splits: int | None = None
) -> Tensor:
    """Every row attends to the tokens of its sequence up to its own position.

    The keys of a row are split into ``splits`` parts for as many programs; by default as measured
    (docs/lab-notes.md). The result depends on their number (by rounding), not on the other rows.
    """
    count, heads, size = query_NHd.shape
    kv_heads = keys.data.shape[1]
    splits = splits or default_splits(count, kv_heads)
    parts = torch.empty(count, heads, splits, size, dtype=torch.float32, device=query_NHd.device)
    norms = torch.empty(count, heads, splits, dtype=torch.float32, device=query_NHd.device)
    sharers, wide = heads // kv_heads, max(16, triton.next_power_of_2(size))
    _attention_kernel[count, kv_heads, splits](
        query_NHd, keys.data, keys.scale, values.data, values.scale,
        rows.tables, rows.slot_N, rows.position_N, rows.tables.shape[1], parts, norms,
        heads, kv_heads, size, splits, 1 / math.sqrt(size),
        CODED=keys.scale is not None, SHARERS=sharers, R=max(16, triton.next_power_of_2(sharers)), S=64, D=wide,
        PAGE=rows.page_size, PRECISION="ieee" if query_NHd.dtype == torch.float32 else "tf32", num_warps=4,
    )  # fmt: skip
    _join_kernel[(count * heads,)](
        parts, norms, out_NHd, splits, size, K=triton.next_power_of_2(splits), D=wide, num_warps=1
    )
    return out_NHd


def default_splits(rows: int, kv_heads: int) -> int:
    """For few rows as many parts as fill a large GPU; for many, what keeps long rows from being the last."""
    return 32 if rows * kv_heads <= 32 else 8
