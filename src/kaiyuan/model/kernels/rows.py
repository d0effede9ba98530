"""Rows to their experts and back. Shapes: T tokens, K choices a token, N = T * K assignments, D hidden size.

The plain forms: ``x[token_N]``, and ``base + zeros.index_add(token, rows) + residual``; here each token's rows are
looked up instead of added to it one by one, which needs no atomic additions and has one order of summation.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _gather_rows(x, token, kept, out, size, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    if row < tl.load(kept):
        value = tl.load(x + tl.load(token + row).to(tl.int64) * size + i, i < size, 0.0)
        tl.store(out + row * size + i, value, i < size)


@triton.jit
def _combine_rows(
    rows, base, residual, place, kept, out, size,
    TOP_K: tl.constexpr, BASE: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token, i, most = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK), tl.load(kept)
    inside = i < size
    total = tl.zeros((BLOCK,), tl.float32)
    if BASE:
        total += tl.load(base + token * size + i, inside, 0.0).to(tl.float32)
    for choice in range(TOP_K):
        at = tl.load(place + token * TOP_K + choice).to(tl.int64)
        total += tl.load(rows + at * size + i, i < tl.where(at < most, size, 0), 0.0).to(tl.float32)
    if RESIDUAL:
        total += tl.load(residual + token * size + i, inside, 0.0).to(tl.float32)
    tl.store(out + token * size + i, total.to(out.dtype.element_ty), inside)


def gather(x_TD: Tensor, token_N: Tensor, kept: Tensor) -> Tensor:
    """``x[token_N]`` (N, D); rows from ``kept`` (one int32) on are left as they are in memory."""
    out_ND = x_TD.new_empty(len(token_N), x_TD.shape[1])
    if len(token_N):
        size = x_TD.shape[1]
        _gather_rows[(len(token_N),)](
            x_TD, token_N, kept, out_ND, size, BLOCK=triton.next_power_of_2(size), num_warps=4
        )  # fmt: skip
    return out_ND


def combine(
    rows_ND: Tensor, base_TD: Tensor | None, place_N: Tensor, kept: Tensor, top_k: int,
    residual_TD: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``base[t] + sum_j rows[place[t * K + j]] + residual[t]`` (T, D), without those whose place is ``kept`` or beyond.

    Added up in that order in float32 and rounded once.
    """
    tokens, size = len(place_N) // top_k, rows_ND.shape[1]
    out_TD = rows_ND.new_empty(tokens, size)
    if tokens:
        _combine_rows[(tokens,)](
            rows_ND, rows_ND if base_TD is None else base_TD, rows_ND if residual_TD is None else residual_TD,
            place_N, kept, out_TD, size,
            TOP_K=top_k, BASE=base_TD is not None, RESIDUAL=residual_TD is not None,
            BLOCK=triton.next_power_of_2(size), num_warps=4,
        )  # fmt: skip
    return out_TD
