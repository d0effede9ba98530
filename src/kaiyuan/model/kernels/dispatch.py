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
def _dispatch_count(expert, counts, count, each, BLOCK: tl.constexpr, BINS: tl.constexpr):
    program = tl.program_id(0)
    end = tl.minimum((program + 1) * each, count)
    total = tl.zeros((BLOCK, BINS), tl.int32)
    for start in range(program * each, end, BLOCK):
        total += _ones(expert, start, end, BLOCK, BINS)[1]
    tl.store(counts + program * BINS + tl.arange(0, BINS), tl.sum(total, 0))


@triton.jit
def _totals(counts, program, programs, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """int32 (BINS,) twice: each expert's assignments in all blocks, and in those before ``program``'s."""
    all_PE, before_PE = tl.zeros((BLOCK, BINS), tl.int32), tl.zeros((BLOCK, BINS), tl.int32)
    for start in range(0, programs, BLOCK):
        p, e = (start + tl.arange(0, BLOCK))[:, None], tl.arange(0, BINS)[None, :]
        count_PE = tl.load(counts + p * BINS + e, (p < programs) & (e < BINS), 0)
        all_PE += count_PE
        before_PE += tl.where(p < program, count_PE, 0)
    return tl.sum(all_PE, 0), tl.sum(before_PE, 0)


@triton.jit
def _dispatch_put(
    expert, counts, order, place, counts_E, ends_E, offsets_E, count, each, experts, programs,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    program, e = tl.program_id(0), tl.arange(0, BINS)
    total_E, before_E = _totals(counts, program, programs, BLOCK, BINS)
    end_E = tl.cumsum(total_E, 0)
    if program == 0:
        tl.store(counts_E + e, total_E.to(tl.int64), e < experts)
        tl.store(ends_E + e, end_E.to(tl.int64), e < experts)
        tl.store(offsets_E + e, end_E, e < experts)
    next_row_E = end_E - total_E + before_E  # where each expert's next assignment goes
    last = tl.minimum((program + 1) * each, count)
    for start in range(program * each, last, BLOCK):
        n, one_NE = _ones(expert, start, last, BLOCK, BINS)
        earlier_NE = tl.cumsum(one_NE, 0) - one_NE  # of the same expert in this tile
        row_N = tl.sum(one_NE * (next_row_E[None, :] + earlier_NE), 1)
        next_row_E += tl.sum(one_NE, 0)
        tl.store(place + n, row_N.to(tl.int64), n < last)
        tl.store(order + row_N, n.to(tl.int64), n < last)


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
    _dispatch_count[(programs,)](expert_N, counts, count, each, BLOCK=block, BINS=bins)
    _dispatch_put[(programs,)](
        expert_N, counts, order, place, counts_E, ends_E, offsets_E, count, each, experts, programs,
        BLOCK=block, BINS=bins,
    )  # fmt: skip
    return Order(order, place, counts_E, ends_E, offsets_E)
