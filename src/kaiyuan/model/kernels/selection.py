"""Which of an overfull expert's tokens keep their slots: the last of them by precedence, found by bisection.

A part of the kernels of ``kaiyuan.model.kernels.routing``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kaiyuan.model.routing import PRECEDENCE_BITS

EXPERTS = tl.constexpr(64)
"""What a program has room for: it looks at all experts of its tokens at once."""
LOW_BITS, LOW_MOST = tl.constexpr(PRECEDENCE_BITS - 31), tl.constexpr(2 ** (PRECEDENCE_BITS - 31) - 1)
"""A precedence is kept as 31 high bits and the low ones: two positive int32."""
_MOST = tl.constexpr(2**31 - 1)
_ALL_FIT = tl.constexpr(2**PRECEDENCE_BITS)
"""More than any precedence."""


@triton.jit
def _count(high, low, count, most, of, LOW: tl.constexpr, BLOCK: tl.constexpr):
    """How many of ``high`` are at most ``most``; with ``LOW``, how many of ``low`` beside a ``high`` of ``of``."""
    total = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(high + i, i < count, _MOST)
        if LOW:
            value = tl.where(value == of, tl.load(low + i, i < count, _MOST), _MOST)
        total += (value <= most).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def _bisect(high, low, count, wanted, least, most, upto, of, LOW: tl.constexpr, BLOCK: tl.constexpr):
    """A value between ``least`` and ``most``, how many are below it and how many are at most that: at least
    ``wanted``. It is the smallest such value, or any with exactly ``wanted``, and then nothing is told of those below.
    """
    below = 0
    while least < most:
        middle = least + (most - least) // 2
        found = _count(high, low, count, middle, of, LOW, BLOCK)
        enough = found >= wanted
        most, upto = tl.where(enough, middle, most), tl.where(enough, found, upto)
        below = tl.where(enough, below, found)
        least = tl.where(found == wanted, middle, tl.where(enough, least, middle + 1))
    return most, below, upto


@triton.jit
def _nth_tied(choice, precedence, expert, edge, wanted, tokens, BLOCK: tl.constexpr):
    """The ``wanted``-th token, from 1, of those of ``expert`` whose precedence is ``edge``."""
    seen, found = 0, tokens
    for start in range(0, tokens, BLOCK):
        t = start + tl.arange(0, BLOCK)
        tied = tl.load(choice + t, t < tokens, -1) == expert
        tied = (tied & (tl.load(precedence + t, t < tokens, -1) == edge)).to(tl.int32)
        nth = (tied == 1) & (seen + tl.cumsum(tied, 0) == wanted)
        found = tl.minimum(found, tl.min(tl.where(nth, t, tokens), 0))
        seen += tl.sum(tied, 0)
    return found


@triton.jit
def select_expert(
    choice, precedence, high, low, chosen, edges, lasts, tokens, capacity, expert, BLOCK: tl.constexpr
):  # fmt: skip
    """Stores the precedence and the number of the last token of ``expert`` that keeps its slot."""
    count = tl.load(chosen + expert)
    if count <= capacity:
        tl.store(edges + expert, tl.full((), _ALL_FIT, tl.int64))
        tl.store(lasts + expert, tokens)
    else:
        e = tl.arange(0, EXPERTS)
        begin = tl.sum(tl.where(e < expert, tl.load(chosen + e), 0), 0)
        high, low = high + begin, low + begin
        least, most = tl.full((BLOCK,), _MOST, tl.int32), tl.zeros((BLOCK,), tl.int32)
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            least = tl.minimum(least, tl.load(high + i, i < count, _MOST))
            most = tl.maximum(most, tl.load(high + i, i < count, 0))
        first, final, last = tl.min(least, 0), tl.max(most, 0), tokens
        top, below, upto = _bisect(high, low, count, capacity, first, final, count, 0, False, BLOCK)
        if upto == capacity:
            edge = ((top.to(tl.int64) + 1) << LOW_BITS) - 1
        else:
            wanted = capacity - below
            first, final = tl.full((), 0, tl.int32), tl.full((), LOW_MOST, tl.int32)
            rest, below, upto = _bisect(high, low, count, wanted, first, final, upto - below, top, True, BLOCK)
            edge = (top.to(tl.int64) << LOW_BITS) + rest
            if upto != wanted:
                last = _nth_tied(choice, precedence, expert, edge, wanted - below, tokens, BLOCK)
        tl.store(edges + expert, edge)
        tl.store(lasts + expert, last)
