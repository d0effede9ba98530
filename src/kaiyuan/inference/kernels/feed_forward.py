"""The feed-forward layer for few rows: router, shared expert and the specialised experts that the rows want.

The products find for themselves which experts those are: the host does not learn it, and nothing is sorted. A program
takes one expert and all rows, and leaves out the rows that want another.

Shapes: N rows, I inputs, O outputs, E experts, K choices of a row, S width of the shared expert, F of a specialised
one, P parts of the result: the shared expert's if there is one, then one for each choice.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.inference.kernels.products import (
    BY_ROW,
    IN_GROUPS,
    Matrix,
    Tile,
    normalized,
    precision,
    product,
    product_of_pairs,
    rows_before,
    tile_for,
    weights,
)


class Choice(NamedTuple):
    """Each row's ``top_k`` most likely experts, weighted by their probabilities."""

    logits_NE: Tensor
    """float32."""
    top_k: int
    renormalize: bool
    """Whether a row's weights sum to 1."""


@triton.jit
def _route_kernel(x, gain, router, normed, logits, inputs, experts, eps, BLOCK_I: tl.constexpr):
    expert, row, i = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK_I)
    inside = i < inputs
    wide = tl.load(x + row * inputs + i, inside, 0.0).to(tl.float32)
    y = normalized(wide, gain, i, inputs, eps, normed.dtype.element_ty)
    if expert == 0:
        tl.store(normed + row * inputs + i, y, inside)
    weight = tl.load(router + expert * inputs + i, inside, 0.0)
    tl.store(logits + row * experts + expert, tl.sum(y.to(tl.float32) * weight, 0))


def route(
    x_NI: Tensor, gain: Tensor, eps: float, router_EI: Tensor, normed_NI: Tensor, logits_NE: Tensor
) -> Tensor:  # fmt: skip
    """``normed = rms_norm(x, gain)`` and ``logits = normed.float() @ router.T``."""
    rows, inputs = x_NI.shape
    _route_kernel[len(router_EI), rows](
        x_NI, gain, router_EI, normed_NI, logits_NE, inputs, len(router_EI), eps,
        BLOCK_I=triton.next_power_of_2(inputs), num_warps=4,
    )  # fmt: skip
    return logits_NE


@triton.jit
def _choices(logits, n, rows, experts, TOP_K: tl.constexpr, RENORMALIZE: tl.constexpr, E: tl.constexpr):
    """For every row and expert the place among the row's choices (-1: not chosen) and the weight; for every expert
    whether any row wants it.
    """
    e = tl.arange(0, E)
    inside = (n < rows)[:, None] & (e < experts)[None, :]
    scores = tl.load(logits + n[:, None] * experts + e[None, :], inside, float("-inf"))
    place, left = tl.full(scores.shape, -1, tl.int32), scores
    for k in tl.static_range(TOP_K):
        best = (tl.argmax(left, 1)[:, None] == e[None, :]) & inside
        place = tl.where(best, k, place)
        left = tl.where(best, float("-inf"), left)
    share = tl.exp(scores - tl.where(n < rows, tl.max(scores, 1), 0.0)[:, None])
    counted = tl.where(place >= 0, share, 0.0) if RENORMALIZE else share
    weight = tl.where(place >= 0, share / tl.maximum(tl.sum(counted, 1), 1e-30)[:, None], 0.0)
    return place, weight, tl.max((place >= 0).to(tl.int32), 0)


@triton.jit
def _wanted_as(wanted, slot, E: tl.constexpr):
    """The expert that is wanted as the ``slot``-th, counting from 0."""
    return tl.sum(tl.where((wanted == 1) & (tl.cumsum(wanted, 0) == slot + 1), tl.arange(0, E), 0))


@triton.jit
def _of_expert(table, expert, E: tl.constexpr):
    """Column ``expert`` of a table (rows, E)."""
    return tl.sum(tl.where(tl.arange(0, E)[None, :] == expert, table, 0), 1)


@triton.jit
def _gate_and_up(
    x, weight, n, o, mine, inputs, width,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    SUMS: tl.constexpr = BLOCK_I if BLOCK_R == 1 else BLOCK_O
    gate = tl.zeros((BLOCK_O if BLOCK_R == 1 else BLOCK_R, SUMS), tl.float32)
    up = tl.zeros((BLOCK_O if BLOCK_R == 1 else BLOCK_R, SUMS), tl.float32)
    for start in range(0, inputs, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        inside = (o < width)[:, None] & (i < inputs)[None, :]
        g, u = weights(weight, o, i, inside, inputs), weights(weight, width + o, i, inside, inputs)
        if BLOCK_R == 1:
            a = tl.load(x + i, i < inputs, 0.0).to(tl.float32)[None, :]
            gate += g.to(tl.float32) * a
            up += u.to(tl.float32) * a
        else:
            a = tl.load(x + n[:, None] * inputs + i[None, :], mine[:, None] & (i < inputs)[None, :], 0.0)
            gate = tl.dot(a, tl.trans(g.to(a.dtype)), gate, input_precision=PRECISION)
            up = tl.dot(a, tl.trans(u.to(a.dtype)), up, input_precision=PRECISION)
    if BLOCK_R == 1:
        return tl.sum(gate, 1)[None, :], tl.sum(up, 1)[None, :]
    else:  # noqa: RET505 (Triton compiles one of both)
        return gate, up


@triton.jit
def _swiglu(
    x, weight, scale, out, n, at, mine, inputs, width,
    CODED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of ``silu(gate) * up`` of the rows ``n`` that are ``mine``, stored as rows ``at``."""
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    if CODED == IN_GROUPS:
        gate = product_of_pairs(x, weight, scale, n, o, mine, o < width, inputs,
                                BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip
        up = product_of_pairs(x, weight, scale, n, width + o, mine, o < width, inputs,
                              BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip
    else:
        gate, up = _gate_and_up(x, weight, n, o, mine, inputs, width, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)
    if CODED == BY_ROW:
        gate = gate * tl.load(scale + o, o < width, 0.0)[None, :]
        up = up * tl.load(scale + width + o, o < width, 0.0)[None, :]
    activated = gate / (1 + tl.exp(-gate)) * up
    inside = mine[:, None] & (o < width)[None, :]
    tl.store(out + at[:, None] * width + o[None, :], activated.to(out.dtype.element_ty), inside)


@triton.jit
def _gate_up_kernel(
    x, shared_weight, shared_scale, weight, scale, logits, shared_out, out,
    rows, inputs, shared_width, width, experts,
    SHARED: tl.constexpr, SHARED_CODED: tl.constexpr, CODED: tl.constexpr, TOP_K: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n, turn = tl.arange(0, BLOCK_R), tl.program_id(1)
    if turn < SHARED:
        if SHARED:  # noqa: SIM102 (without a shared expert nothing of this may be compiled)
            if tl.program_id(0) * BLOCK_O < shared_width:
                _swiglu(x, shared_weight, shared_scale, shared_out, n, n, n < rows, inputs, shared_width,
                        SHARED_CODED, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip
    elif tl.program_id(0) * BLOCK_O < width:
        place, _, wanted = _choices(logits, n, rows, experts, TOP_K, False, E)
        if turn - SHARED < tl.sum(wanted):
            expert = _wanted_as(wanted, turn - SHARED, E)
            own = _of_expert(place, expert, E)
            places, scales = rows_before(expert.to(tl.int64) * 2 * width, inputs, CODED)
            weight += places
            if CODED:
                scale += scales
            _swiglu(x, weight, scale, out, n, own * rows + n, own >= 0, inputs, width,
                    CODED, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip


def gate_up(
    x_NI: Tensor, shared: Matrix | None, routed: Matrix, choice: Choice, shared_NS: Tensor | None, routed_KNF: Tensor,
    *, tile: Tile | None = None,
) -> None:  # fmt: skip
    """``swiglu(x @ weight.T)`` of the shared expert into ``shared_NS``, and of each row's j-th choice into row j of
    ``routed_KNF``.
    """
    rows, inputs = x_NI.shape
    experts, width = choice.logits_NE.shape[1], routed.weight.shape[-2] // 2
    shared_width = 0 if shared is None else shared.weight.shape[0] // 2
    tile, common = tile or tile_for(rows, inputs), shared or routed
    slots = min(rows * choice.top_k, experts) + (shared is not None)
    _gate_up_kernel[triton.cdiv(max(shared_width, width), tile.outputs), slots](
        x_NI, common.weight, common.scale, routed.weight, routed.scale, choice.logits_NE, shared_NS, routed_KNF,
        rows, inputs, shared_width, width, experts,
        SHARED=int(shared is not None), SHARED_CODED=common.coded, CODED=routed.coded,
        TOP_K=choice.top_k, BLOCK_R=tile.rows, BLOCK_O=tile.outputs, BLOCK_I=tile.inputs, E=_padded(experts),
        PRECISION=precision(x_NI), **tile.launch,
    )  # fmt: skip


@triton.jit
def _down_kernel(
    shared, shared_weight, shared_scale, routed, weight, scale, logits, parts,
    rows, shared_width, width, outputs, experts,
    SHARED: tl.constexpr, SHARED_CODED: tl.constexpr, CODED: tl.constexpr, TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o, n, turn = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_R), tl.program_id(1)
    if turn < SHARED:
        if SHARED:
            part = product(shared, shared_weight, shared_scale, n, o, rows, shared_width, outputs,
                           SHARED_CODED, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip
            inside = (n < rows)[:, None] & (o < outputs)[None, :]
            tl.store(parts + n[:, None] * outputs + o[None, :], part, inside)
    else:
        place, share, wanted = _choices(logits, n, rows, experts, TOP_K, RENORMALIZE, E)
        if turn - SHARED < tl.sum(wanted):
            expert = _wanted_as(wanted, turn - SHARED, E)
            own = _of_expert(place, expert, E)
            at = tl.where(own >= 0, own * rows + n, TOP_K * rows)
            places, scales = rows_before(expert.to(tl.int64) * outputs, width, CODED)
            weight += places
            if CODED:
                scale += scales
            first = routed + (tl.sum(at) * width if BLOCK_R == 1 else 0)
            part = product(first, weight, scale, at, o, TOP_K * rows, width, outputs,
                           CODED, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip
            part = part * _of_expert(share, expert, E)[:, None]
            inside = (own >= 0)[:, None] & (o < outputs)[None, :]
            tl.store(parts + (SHARED * rows + at)[:, None] * outputs + o[None, :], part, inside)


def down(
    shared_NS: Tensor | None, shared: Matrix | None, routed_KNF: Tensor, routed: Matrix, choice: Choice,
    parts_PNO: Tensor, *, tile: Tile | None = None,
) -> Tensor:  # fmt: skip
    """Float32 parts of the layer's result: ``shared_NS @ shared.T`` and, for each row's j-th choice e with weight p,
    ``p * (routed_KNF[j] @ routed[e].T)``.
    """
    rows, width = routed_KNF.shape[1:]
    outputs, experts = routed.weight.shape[1], choice.logits_NE.shape[1]
    tile, common = tile or tile_for(rows, width), shared or routed
    slots = min(rows * choice.top_k, experts) + (shared is not None)
    _down_kernel[triton.cdiv(outputs, tile.outputs), slots](
        shared_NS, common.weight, common.scale, routed_KNF, routed.weight, routed.scale, choice.logits_NE, parts_PNO,
        rows, 0 if shared_NS is None else shared_NS.shape[1], width, outputs, experts,
        SHARED=int(shared is not None), SHARED_CODED=common.coded, CODED=routed.coded,
        TOP_K=choice.top_k, RENORMALIZE=choice.renormalize, BLOCK_R=tile.rows, BLOCK_O=tile.outputs,
        BLOCK_I=tile.inputs, E=_padded(experts), PRECISION=precision(routed_KNF), **tile.launch,
    )  # fmt: skip
    return parts_PNO


def _padded(experts: int) -> int:
    return max(2, triton.next_power_of_2(experts))
