"""Assignments in the order of their experts by counting, as a stable sort puts them: two kernels.

The first counts each expert's assignments in every block; the second adds up what stands before its own block and
puts each assignment behind the earlier ones of the same expert.

Shapes: N assignments, E experts, P programs, each with a block of assignments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_EXPERTS = 255
_TILE = 4096
"""Numbers of an assignment and an expert that a program looks at at once."""
_PROGRAMS = 128


class Order(NamedTuple):
    """Assignments sorted by expert."""

    order_N: Tensor
    """int64; the assignment of each sorted row."""
    place_N: Tensor
    """int64; the sorted row of each assignment."""
    counts_E: Tensor
    """int64; the rows of each expert."""
    ends_E: Tensor
    """int64; where they end."""
    offsets_E: Tensor
    """int32; the same."""


@triton.jit
def _ones(expert, start, end, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """The assignments from ``start`` and for each a one at its expert, (BLOCK, BINS)."""
    n = start + tl.arange(0, BLOCK)
    mine = tl.load(expert + n, n < end, -1).to(tl.int32)
    return n, (mine[:, None] == tl.arange(0, BINS)[None, :]).to(tl.int32)


@triton.jit
def _count(expert, counts, count, each, BLOCK: tl.constexpr, BINS: tl.constexpr):
    program = tl.program_id(0)
    end = tl.minimum((program + 1) * each, count)
    total = tl.zeros((BLOCK, BINS), tl.int32)
    for start in range(program * each, end, BLOCK):
        total += _ones(expert, start, end, BLOCK, BINS)[1]
    tl.store(counts + program * BINS + tl.arange(0, BINS), tl.sum(total, 0))


@triton.jit
def _put(
    expert, counts, order, place, counts_E, ends_E, offsets_E, count, each, experts, programs,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    program, bins = tl.program_id(0), tl.arange(0, BINS)
    before, whole = tl.zeros((BLOCK, BINS), tl.int32), tl.zeros((BLOCK, BINS), tl.int32)
    for start in range(0, programs, BLOCK):
        p = (start + tl.arange(0, BLOCK))[:, None]
        found = tl.load(counts + p * BINS + bins[None, :], (p < programs) & (bins < BINS)[None, :], 0)
        whole += found
        before += tl.where(p < program, found, 0)
    total = tl.sum(whole, 0)
    ends = tl.cumsum(total, 0)
    if program == 0:
        tl.store(counts_E + bins, total.to(tl.int64), bins < experts)
        tl.store(ends_E + bins, ends.to(tl.int64), bins < experts)
        tl.store(offsets_E + bins, ends, bins < experts)
    next_row = ends - total + tl.sum(before, 0)
    end = tl.minimum((program + 1) * each, count)
    for start in range(program * each, end, BLOCK):
        n, one = _ones(expert, start, end, BLOCK, BINS)
        row = tl.sum(one * (next_row[None, :] + tl.cumsum(one, 0) - one), 1)
        next_row += tl.sum(one, 0)
        tl.store(place + n, row.to(tl.int64), n < end)
        tl.store(order + row, n.to(tl.int64), n < end)


def by_expert(expert_N: Tensor, experts: int) -> Order:
    """The order of int64 ``expert_N``, whose numbers go from 0 to ``experts`` (no expert) inclusive."""
    count, pool = len(expert_N), dict[str, Any](dtype=torch.int64, device=expert_N.device)
    bins = max(16, triton.next_power_of_2(experts + 1))
    block = _TILE // bins
    each = block * triton.cdiv(count, block * _PROGRAMS)
    programs = triton.cdiv(count, each)
    order, place = torch.empty(count, **pool), torch.empty(count, **pool)
    counts_E, ends_E = torch.empty(experts, **pool), torch.empty(experts, **pool)
    offsets_E = torch.empty_like(ends_E, dtype=torch.int32)
    counts = torch.empty(programs, bins, dtype=torch.int32, device=expert_N.device)
    expert_N = expert_N.contiguous()
    _count[(programs,)](expert_N, counts, count, each, BLOCK=block, BINS=bins)
    _put[(programs,)](
        expert_N, counts, order, place, counts_E, ends_E, offsets_E, count, each, experts, programs,
        BLOCK=block, BINS=bins,
    )  # fmt: skip
    return Order(order, place, counts_E, ends_E, offsets_E)
