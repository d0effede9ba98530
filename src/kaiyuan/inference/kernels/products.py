"""Matrix products for few rows: each weight is read once, and what stands around a product is done with it.

RMSNorm goes into the product that follows it (the norm of a row is a factor of the result, so it is found on the way),
SwiGLU into the one before, the residual into the one that ends a block. The experts' products find for themselves
which experts are wanted: the host does not learn it.

Shapes: N rows, I inputs, O outputs, F width of a feed-forward layer, E experts, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Matrix(NamedTuple):
    """A weight (O, I), or those of all experts (E, O, I); if coded in int8 or fp8, with a scale for each output row."""

    weight: Tensor
    scale: Tensor | None = None
    """float32 (..., O, 1)."""


MOST_ROWS = 128
"""More rows than that are no matter of memory any more."""


@triton.jit
def accumulate(
    acc, squares, x, gain, weight, n, o, rows, inputs, outputs,
    NORM: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds ``x * gain @ weight.T`` to ``acc``, and each row's sum of squares to ``squares``."""
    for start in range(0, inputs, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        inside = i < inputs
        w = tl.load(
            weight + o[:, None].to(tl.int64) * inputs + i[None, :], (o < outputs)[:, None] & inside[None, :], 0.0
        )
        a = tl.load(x + n[:, None] * inputs + i[None, :], (n < rows)[:, None] & inside[None, :], 0.0)
        if NORM:
            wide = a.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            a = (wide * tl.load(gain + i, inside, 0.0).to(tl.float32)[None, :]).to(a.dtype)
        acc = tl.dot(a, tl.trans(w.to(a.dtype)), acc, input_precision=PRECISION)
    return acc, squares


@triton.jit
def _scaled(acc, scale, o, outputs, CODED: tl.constexpr):
    if CODED:
        acc = acc * tl.load(scale + o, o < outputs, 0.0)[None, :]
    return acc


@triton.jit
def _silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def _linear_kernel(
    x, gain, weight, scale, residual, out, rows, inputs, outputs, eps,
    NORM: tl.constexpr, ADD: tl.constexpr, CODED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    n = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    acc, squares = tl.zeros((BLOCK_R, BLOCK_O), tl.float32), tl.zeros((BLOCK_R,), tl.float32)
    acc, squares = accumulate(acc, squares, x, gain, weight, n, o, rows, inputs, outputs, NORM, BLOCK_I, PRECISION)
    acc = _scaled(acc, scale, o, outputs, CODED)
    if NORM:
        acc = acc * tl.rsqrt(squares / inputs + eps)[:, None]
    places, inside = n[:, None] * outputs + o[None, :], (n < rows)[:, None] & (o < outputs)[None, :]
    if ADD:
        acc += tl.load(residual + places, inside, 0.0).to(tl.float32)
    tl.store(out + places, acc.to(out.dtype.element_ty), inside)


def linear(
    x_NI: Tensor, matrix: Matrix, out_NO: Tensor, *, gain: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, tile: tuple[int, int, int] | None = None,
) -> Tensor:  # fmt: skip
    """``out = rms_norm(x, gain) @ weight.T + residual``, without norm or residual if they are not given.

    ``tile`` (rows, outputs, inputs) fixes what one program computes, and with it the order of every sum.
    """
    rows, (outputs, inputs) = len(x_NI), matrix.weight.shape
    BLOCK_R, BLOCK_O, BLOCK_I = tile or (row_block(rows), 16 if outputs < 16_384 else 64, input_block(inputs))
    _linear_kernel[triton.cdiv(outputs, BLOCK_O), triton.cdiv(rows, BLOCK_R)](
        x_NI, gain, matrix.weight, matrix.scale, residual, out_NO, rows, inputs, outputs, eps,
        NORM=gain is not None, ADD=residual is not None, CODED=matrix.scale is not None,
        BLOCK_R=BLOCK_R, BLOCK_O=BLOCK_O, BLOCK_I=BLOCK_I, PRECISION=precision(x_NI), **launch(BLOCK_R),
    )  # fmt: skip
    return out_NO


@triton.jit
def _route_kernel(
    x, gain, router, logits, rows, inputs, experts, eps, BLOCK_R: tl.constexpr, E: tl.constexpr, BLOCK_I: tl.constexpr
):
    """The router's logits in float32, of the normalised rows rounded as the model's own layers round them."""
    n, e = tl.arange(0, BLOCK_R), tl.arange(0, E)
    squares = tl.zeros((BLOCK_R,), tl.float32)
    for start in range(0, inputs, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        a = tl.load(x + n[:, None] * inputs + i[None, :], (n < rows)[:, None] & (i < inputs)[None, :], 0.0).to(
            tl.float32
        )
        squares += tl.sum(a * a, 1)
    inverse = tl.rsqrt(squares / inputs + eps)
    acc = tl.zeros((BLOCK_R, E), tl.float32)
    for start in range(0, inputs, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        a = tl.load(x + n[:, None] * inputs + i[None, :], (n < rows)[:, None] & (i < inputs)[None, :], 0.0)
        g = tl.load(gain + i, i < inputs, 0.0).to(tl.float32)
        normed = (a.to(tl.float32) * inverse[:, None] * g[None, :]).to(a.dtype).to(tl.float32)
        w = tl.load(router + e[:, None] * inputs + i[None, :], (e < experts)[:, None] & (i < inputs)[None, :], 0.0)
        acc = tl.dot(normed, tl.trans(w), acc, input_precision="ieee")
    tl.store(logits + n[:, None] * experts + e[None, :], acc, (n < rows)[:, None] & (e < experts)[None, :])


def route(x_NI: Tensor, gain: Tensor, eps: float, router_EI: Tensor, logits_NE: Tensor) -> Tensor:
    """``logits = rms_norm(x, gain).float() @ router.T``."""
    rows, inputs = x_NI.shape
    BLOCK_R, E = row_block(rows), max(16, triton.next_power_of_2(len(router_EI)))
    _route_kernel[(1,)](
        x_NI, gain, router_EI, logits_NE, rows, inputs, len(router_EI), eps,
        BLOCK_R=BLOCK_R, E=E, BLOCK_I=min(64, input_block(inputs)), num_warps=8,
    )  # fmt: skip
    return logits_NE


@triton.jit
def _choices(logits, n, rows, experts, WEIGHTED: tl.constexpr, E: tl.constexpr):
    """Each row's most likely expert (-1 beyond the rows), its weight, and which experts are wanted by any row."""
    e = tl.arange(0, E)
    inside = (n < rows)[:, None] & (e < experts)[None, :]
    scores = tl.load(logits + n[:, None] * experts + e[None, :], inside, float("-inf"))
    best = tl.max(scores, 1)
    chosen = tl.where(n < rows, tl.argmax(scores, 1), -1)
    weight = tl.full(best.shape, 1.0, tl.float32)
    if WEIGHTED:
        weight = 1 / tl.sum(tl.exp(scores - tl.where(n < rows, best, 0.0)[:, None]), 1)
    wanted = tl.max((chosen[:, None] == e[None, :]).to(tl.int32), 0)
    return chosen, weight, wanted


@triton.jit
def _place_of(wanted, slot, E: tl.constexpr):
    """The expert that is wanted as the ``slot``-th, counting from 0."""
    e = tl.arange(0, E)
    return tl.sum(tl.where((wanted == 1) & (tl.cumsum(wanted, 0) == slot + 1), e, 0))


@triton.jit
def _gate_up_kernel(
    x, gain, weight, scale, logits, out, rows, inputs, width, experts, eps,
    ROUTED: tl.constexpr, CODED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``silu(gate) * up`` of the shared expert, or of the experts that rows are routed to, one for each slot."""
    o, n = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_R)
    mine = n < rows
    if ROUTED:
        chosen, _, wanted = _choices(logits, n, rows, experts, False, E)
        if tl.program_id(1) >= tl.sum(wanted):
            return
        expert = _place_of(wanted, tl.program_id(1), E)
        mine = chosen == expert
        weight += expert.to(tl.int64) * 2 * width * inputs
        if CODED:
            scale += expert * 2 * width
    gate, up = tl.zeros((BLOCK_R, BLOCK_O), tl.float32), tl.zeros((BLOCK_R, BLOCK_O), tl.float32)
    squares = tl.zeros((BLOCK_R,), tl.float32)
    above = weight + width.to(tl.int64) * inputs
    for start in range(0, inputs, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        places, inside = o[:, None].to(tl.int64) * inputs + i[None, :], (o < width)[:, None] & (i < inputs)[None, :]
        g = tl.load(weight + places, inside, 0.0)
        u = tl.load(above + places, inside, 0.0)
        a = tl.load(x + n[:, None] * inputs + i[None, :], mine[:, None] & (i < inputs)[None, :], 0.0)
        wide = a.to(tl.float32)
        squares += tl.sum(wide * wide, 1)
        a = (wide * tl.load(gain + i, i < inputs, 0.0).to(tl.float32)[None, :]).to(a.dtype)
        gate = tl.dot(a, tl.trans(g.to(a.dtype)), gate, input_precision=PRECISION)
        up = tl.dot(a, tl.trans(u.to(a.dtype)), up, input_precision=PRECISION)
    inverse = tl.rsqrt(squares / inputs + eps)[:, None]
    gate = _scaled(gate, scale, o, width, CODED) * inverse
    if CODED:
        scale += width
    up = _scaled(up, scale, o, width, CODED) * inverse
    tl.store(
        out + n[:, None] * width + o[None, :],
        (_silu(gate) * up).to(out.dtype.element_ty),
        mine[:, None] & (o < width)[None, :],
    )


def gate_up(
    x_NI: Tensor, gain: Tensor, eps: float, matrix: Matrix, out_NF: Tensor, logits_NE: Tensor | None = None
) -> Tensor:
    """``out = swiglu(rms_norm(x, gain) @ weight.T)``; with ``logits`` each row by the expert whose logit is highest."""
    rows, inputs = x_NI.shape
    width = matrix.weight.shape[-2] // 2
    experts = 1 if logits_NE is None else logits_NE.shape[1]
    BLOCK_R, BLOCK_O, BLOCK_I = row_block(rows), 16, input_block(inputs)
    _gate_up_kernel[triton.cdiv(width, BLOCK_O), min(rows, experts)](
        x_NI, gain, matrix.weight, matrix.scale, logits_NE, out_NF, rows, inputs, width, experts, eps,
        ROUTED=logits_NE is not None, CODED=matrix.scale is not None,
        BLOCK_R=BLOCK_R, BLOCK_O=BLOCK_O, BLOCK_I=BLOCK_I, E=max(2, triton.next_power_of_2(experts)),
        PRECISION=precision(x_NI), **launch(BLOCK_R),
    )  # fmt: skip
    return out_NF


@triton.jit
def _down_kernel(
    shared, shared_weight, shared_scale, routed, weight, scale, logits, residual, out,
    rows, shared_width, width, outputs, experts,
    SHARED: tl.constexpr, WEIGHTED: tl.constexpr, SHARED_CODED: tl.constexpr, CODED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The down-projections of the shared and of all wanted experts, weighted, and the residual."""
    o, n = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_R)
    places, inside = n[:, None] * outputs + o[None, :], (n < rows)[:, None] & (o < outputs)[None, :]
    total, none = tl.zeros((BLOCK_R, BLOCK_O), tl.float32), tl.zeros((BLOCK_R,), tl.float32)
    if SHARED:
        total, _ = accumulate(
            total, none, shared, shared, shared_weight, n, o, rows, shared_width, outputs, False, BLOCK_I, PRECISION
        )
        total = _scaled(total, shared_scale, o, outputs, SHARED_CODED)
    chosen, share, wanted = _choices(logits, n, rows, experts, WEIGHTED, E)
    for slot in range(tl.sum(wanted)):
        expert = _place_of(wanted, slot, E)
        own = weight + expert.to(tl.int64) * outputs * width
        part = tl.zeros((BLOCK_R, BLOCK_O), tl.float32)
        part, _ = accumulate(part, none, routed, routed, own, n, o, rows, width, outputs, False, BLOCK_I, PRECISION)
        if CODED:
            part = part * tl.load(scale + expert * outputs + o, o < outputs, 0.0)[None, :]
        total += tl.where(chosen == expert, share, 0.0)[:, None] * part
    total += tl.load(residual + places, inside, 0.0).to(tl.float32)
    tl.store(out + places, total.to(out.dtype.element_ty), inside)


def down(
    shared_NF: Tensor | None, shared_matrix: Matrix | None, routed_NF: Tensor, matrix: Matrix, logits_NE: Tensor,
    residual_NO: Tensor, out_NO: Tensor, *, weighted: bool = True,
) -> Tensor:  # fmt: skip
    """``out = residual + shared @ shared_weight.T + p * (routed @ weight[e].T)`` with each row's most likely expert e
    and its probability p (1 if not ``weighted``).
    """
    rows, width = routed_NF.shape
    outputs, experts = matrix.weight.shape[1], logits_NE.shape[1]
    BLOCK_R = row_block(rows)
    shared = shared_matrix or Matrix(matrix.weight)
    _down_kernel[(triton.cdiv(outputs, 16),)](
        shared_NF, shared.weight, shared.scale, routed_NF, matrix.weight, matrix.scale, logits_NE, residual_NO, out_NO,
        rows, 0 if shared_NF is None else shared_NF.shape[1], width, outputs, experts,
        SHARED=shared_NF is not None, WEIGHTED=weighted, SHARED_CODED=shared.scale is not None,
        CODED=matrix.scale is not None,
        BLOCK_R=BLOCK_R, BLOCK_O=16, BLOCK_I=input_block(width), E=max(2, triton.next_power_of_2(experts)),
        PRECISION=precision(routed_NF), **launch(BLOCK_R),
    )  # fmt: skip
    return out_NO


def row_block(rows: int) -> int:
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows: these products are for up to {MOST_ROWS}")
    return max(16, triton.next_power_of_2(rows))


def input_block(inputs: int) -> int:
    return min(256, max(16, triton.next_power_of_2(inputs)))


def precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def launch(row_block: int) -> dict[str, Any]:
    return {"num_warps": 4, "num_stages": 4 if row_block <= 32 else 2}
