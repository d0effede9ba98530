"""The last product of a decoding step, with the choice of the most likely token done in it.

The logits of a step without sampling are never written: each block of the vocabulary leaves its highest logit, where
that is, and the sum of its exponentials.

Shapes: N rows, D hidden size, V vocabulary, C blocks of it, B steps of a burst.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.inference.kernels.products import Matrix, Tile, precision, product, tile_for


class Best(NamedTuple):
    """Of every row and block of the vocabulary, each (N, C)."""

    logit: Tensor
    token: Tensor
    total: Tensor
    """Sum of ``exp(logit - highest)``."""

    @classmethod
    def room(cls, rows: int, vocabulary: int, device: torch.device | str) -> Best:
        blocks = triton.cdiv(vocabulary, _BLOCK)
        kinds = (torch.float32, torch.int32, torch.float32)
        return cls(*(torch.empty(rows, blocks, dtype=kind, device=device) for kind in kinds))


_BLOCK = 16


@triton.jit
def _head_kernel(
    x, weight, logits, tokens, totals, rows, inputs, outputs,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    o, n = block * BLOCK_O + tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_R)
    acc = product(x, weight, weight, n, o, rows, inputs, outputs, False, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)
    acc = acc.to(x.dtype.element_ty).to(tl.float32)  # as the model's own head rounds them
    acc = tl.where((o < outputs)[None, :], acc, float("-inf"))
    best = tl.max(acc, 1)
    at = n * tl.num_programs(0) + block
    tl.store(logits + at, best, n < rows)
    tl.store(tokens + at, block * BLOCK_O + tl.argmax(acc, 1), n < rows)
    tl.store(totals + at, tl.sum(tl.exp(acc - best[:, None]), 1), n < rows)


def head(x_ND: Tensor, matrix: Matrix, best: Best, *, tile: Tile | None = None) -> Best:
    """Fills ``best`` with what is needed of the logits ``x @ weight.T``, rounded to the dtype of ``x``."""
    rows, (outputs, inputs) = len(x_ND), matrix.weight.shape
    tile = tile or tile_for(rows, inputs)
    _head_kernel[(best.logit.shape[1],)](
        x_ND, matrix.weight, *best, rows, inputs, outputs,
        BLOCK_R=tile.rows, BLOCK_O=_BLOCK, BLOCK_I=tile.inputs, PRECISION=precision(x_ND), **tile.launch,
    )  # fmt: skip
    return best


@triton.jit
def _choose_kernel(
    logits, tokens, totals, blocks, input_ids, positions, starts, chosen, logprobs, rows, C: tl.constexpr
):  # fmt: skip
    row, c = tl.program_id(0), tl.arange(0, C)
    inside = c < blocks
    logit = tl.load(logits + row * blocks + c, inside, float("-inf"))
    highest = tl.max(logit, 0)
    first = tl.min(tl.where(logit == highest, c, C), 0)
    token = tl.load(tokens + row * blocks + first)
    total = tl.sum(tl.load(totals + row * blocks + c, inside, 0.0) * tl.exp(logit - highest), 0)
    position = tl.load(positions + row)
    at = (position - tl.load(starts + row)) * rows + row
    tl.store(chosen + at, token)
    tl.store(logprobs + at, -tl.log(total))
    tl.store(input_ids + row, token.to(input_ids.dtype.element_ty))
    tl.store(positions + row, tl.where(position < 0, position, position + 1))


def choose(
    best: Best, ids_N: Tensor, position_N: Tensor, start_N: Tensor, token_BN: Tensor, logprob_BN: Tensor
) -> None:  # fmt: skip
    """The most likely token of every row (the first of equals), and its log-probability, into row ``position - start``
    of the results; it becomes the next input at the next position.
    """
    rows, blocks = best.logit.shape
    _choose_kernel[(rows,)](
        *best, blocks, ids_N, position_N, start_N, token_BN, logprob_BN, rows,
        C=triton.next_power_of_2(blocks), num_warps=4,
    )  # fmt: skip
