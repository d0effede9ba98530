"""Matrix products for few rows, in which nothing but reading the weights takes time: each is read once.

Shapes: N rows, I inputs, O outputs, P parts of a sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.model.quantization import GROUP


class Matrix(NamedTuple):
    """A weight (O, I), or those of all experts (E, O, I), as it is or coded as in ``kaiyuan.model.quantization``."""

    weight: Tensor
    scale: Tensor | None = None
    """float32 (..., O, 1) for int8 and fp8, (..., O, I / 64) for int4, two codes of which share a byte."""

    @property
    def inputs(self) -> int:
        return self.weight.shape[-1] * (2 if self.coded == IN_GROUPS.value else 1)

    @property
    def coded(self) -> int:
        """0: not; 1: with a scale for each row; 2: in halves of bytes, with a scale for each group of a row."""
        return 0 if self.scale is None else IN_GROUPS.value if self.weight.dtype == torch.uint8 else BY_ROW.value


BY_ROW, IN_GROUPS, _GROUP = tl.constexpr(1), tl.constexpr(2), tl.constexpr(GROUP)
"""How weights may be coded; and inputs that share a scale."""


class Tile(NamedTuple):
    """What one program computes at a time; it fixes the order of every sum."""

    rows: int
    """1 computes without matrix instructions, which want at least 16."""
    outputs: int
    inputs: int
    warps: int = 4
    stages: int = 4

    @property
    def launch(self) -> dict[str, Any]:
        return {"num_warps": self.warps, "num_stages": self.stages}


MOST_ROWS = 128
"""More rows than that are no matter of memory any more."""


def tile_for(rows: int, inputs: int) -> Tile:
    """One that holds all ``rows``, as measured on an H100 (docs/lab-notes.md)."""
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows: these products are for up to {MOST_ROWS}")
    if rows == 1:
        return Tile(1, 16, _block(inputs, 512))
    if rows <= 32:
        return Tile(_block(rows, 32), 16, _block(inputs, 256))
    return Tile(_block(rows, MOST_ROWS), 32, _block(inputs, 64), warps=8, stages=3)


def _block(size: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(size)))


def precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


@triton.jit
def weights(weight, o, i, inside, inputs):
    """The weights of outputs ``o`` and inputs ``i`` where ``inside``, else 0; a scale for each row is left out."""
    return tl.load(weight + o[:, None].to(tl.int64) * inputs + i[None, :], inside, 0.0)


@triton.jit
def _pairs(weight, scale, o, some, start, inputs, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr):
    """Weights in halves of bytes, of outputs ``o`` (``some`` of them) and BLOCK_I inputs from ``start``: those of the
    even inputs and of the odd ones. Each byte is read once, and each scale.
    """
    group, byte = tl.arange(0, BLOCK_I // _GROUP) + start // _GROUP, tl.arange(0, _GROUP // 2)
    inside = some[:, None] & (group < inputs // _GROUP)[None, :]
    row = o[:, None].to(tl.int64)
    groups = row * (inputs // _GROUP) + group[None, :]
    share = tl.load(scale + groups, inside, 0.0)[:, :, None]
    both = tl.load(weight + groups[:, :, None] * (_GROUP // 2) + byte[None, None, :], inside[:, :, None], 0)
    even, odd = ((both & 15).to(tl.float32) - 8) * share, ((both >> 4).to(tl.float32) - 8) * share
    return tl.reshape(even, (BLOCK_O, BLOCK_I // 2)), tl.reshape(odd, (BLOCK_O, BLOCK_I // 2))


@triton.jit
def product_of_pairs(
    x, weight, scale, n, o, mine, some, inputs,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``product`` of weights in halves of bytes: for the rows ``n`` that are ``mine`` and ``some`` of the outputs."""
    acc = tl.zeros((BLOCK_O if BLOCK_R == 1 else BLOCK_R, BLOCK_I // 2 if BLOCK_R == 1 else BLOCK_O), tl.float32)
    for start in range(0, inputs, BLOCK_I):
        i = start + 2 * tl.arange(0, BLOCK_I // 2)
        even, odd = _pairs(weight, scale, o, some, start, inputs, BLOCK_O, BLOCK_I)
        if BLOCK_R == 1:
            acc += even * tl.load(x + i, i < inputs, 0.0).to(tl.float32)[None, :]
            acc += odd * tl.load(x + i + 1, i < inputs, 0.0).to(tl.float32)[None, :]
        else:
            inside = mine[:, None] & (i < inputs)[None, :]
            a = tl.load(x + n[:, None] * inputs + i[None, :], inside, 0.0)
            b = tl.load(x + n[:, None] * inputs + i[None, :] + 1, inside, 0.0)
            acc = tl.dot(a, tl.trans(even.to(a.dtype)), acc, input_precision=PRECISION)
            acc = tl.dot(b, tl.trans(odd.to(b.dtype)), acc, input_precision=PRECISION)
    if BLOCK_R == 1:
        return tl.sum(acc, 1)[None, :]
    else:  # noqa: RET505 (Triton compiles one of both)
        return acc


@triton.jit
def rows_before(count, inputs, CODED: tl.constexpr):
    """How far apart in memory ``count`` rows of weights are, and their scales."""
    if CODED == IN_GROUPS:
        return count * (inputs // 2), count * (inputs // _GROUP)
    else:  # noqa: RET505
        return count * inputs, count


@triton.jit
def _one_row(x, weight, o, inputs, outputs, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr):
    acc = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    for start in range(0, inputs, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        w = weights(weight, o, i, (o < outputs)[:, None] & (i < inputs)[None, :], inputs)
        acc += w.to(tl.float32) * tl.load(x + i, i < inputs, 0.0).to(tl.float32)
    return tl.sum(acc, 1)[None, :]


@triton.jit
def product(
    x, weight, scale, n, o, rows, inputs, outputs,
    CODED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``x[n] @ weight[o].T`` (BLOCK_R, BLOCK_O) in float32; rows from ``rows`` on count as 0."""
    if CODED == IN_GROUPS:
        acc = product_of_pairs(x, weight, scale, n, o, n < rows, o < outputs, inputs,
                               BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)  # fmt: skip
    elif BLOCK_R == 1:
        acc = _one_row(x, weight, o, inputs, outputs, BLOCK_O, BLOCK_I)
    else:
        acc = tl.zeros((BLOCK_R, BLOCK_O), tl.float32)
        for start in range(0, inputs, BLOCK_I):
            i = start + tl.arange(0, BLOCK_I)
            inside = i < inputs
            w = weights(weight, o, i, (o < outputs)[:, None] & inside[None, :], inputs)
            a = tl.load(x + n[:, None] * inputs + i[None, :], (n < rows)[:, None] & inside[None, :], 0.0)
            acc = tl.dot(a, tl.trans(w.to(a.dtype)), acc, input_precision=PRECISION)
    if CODED == BY_ROW:
        acc = acc * tl.load(scale + o, o < outputs, 0.0)[None, :]
    return acc


@triton.jit
def _linear_kernel(
    x, weight, scale, residual, out, rows, inputs, outputs,
    ADD: tl.constexpr, CODED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    n = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = x + (tl.program_id(1) * inputs if BLOCK_R == 1 else 0)
    acc = product(first, weight, scale, n, o, rows, inputs, outputs, CODED, BLOCK_R, BLOCK_O, BLOCK_I, PRECISION)
    places, inside = n[:, None] * outputs + o[None, :], (n < rows)[:, None] & (o < outputs)[None, :]
    if ADD:
        acc += tl.load(residual + places, inside, 0.0).to(tl.float32)
    tl.store(out + places, acc.to(out.dtype.element_ty), inside)


def linear(
    x_NI: Tensor, matrix: Matrix, out_NO: Tensor, *, residual: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """``out = x @ weight.T``, plus ``residual`` if it is given."""
    rows, outputs, inputs = len(x_NI), len(matrix.weight), matrix.inputs
    tile = tile or tile_for(rows, inputs)
    _linear_kernel[triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows)](
        x_NI, matrix.weight, matrix.scale, residual, out_NO, rows, inputs, outputs,
        ADD=residual is not None, CODED=matrix.coded,
        BLOCK_R=tile.rows, BLOCK_O=tile.outputs, BLOCK_I=tile.inputs, PRECISION=precision(x_NI), **tile.launch,
    )  # fmt: skip
    return out_NO


@triton.jit
def normalized(wide, gain, i, inputs, eps, dtype: tl.constexpr):
    """``wide / rms(wide) * gain``, rounded to ``dtype``."""
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / inputs + eps)
    return (wide * inverse * tl.load(gain + i, i < inputs, 0.0).to(tl.float32)).to(dtype)


@triton.jit
def _norm_kernel(x, parts, gain, out, normed, inputs, eps, PARTS: tl.constexpr, BLOCK_I: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK_I)
    inside, places = i < inputs, row * inputs + i
    wide = tl.load(x + places, inside, 0.0).to(tl.float32)
    if PARTS > 0:
        for part in tl.static_range(PARTS):
            wide += tl.load(parts + part * tl.num_programs(0) * inputs + places, inside, 0.0)
        rounded = wide.to(out.dtype.element_ty)
        tl.store(out + places, rounded, inside)
        wide = rounded.to(tl.float32)
    tl.store(normed + places, normalized(wide, gain, i, inputs, eps, normed.dtype.element_ty), inside)


def norm(
    x_NI: Tensor, gain: Tensor, eps: float, normed_NI: Tensor, *, parts_PNI: Tensor | None = None,
    out_NI: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``normed = rms_norm(x, gain)``; with ``parts`` of ``out = x + parts.sum(0)``, which may be ``x`` itself."""
    rows, inputs = x_NI.shape
    _norm_kernel[(rows,)](
        x_NI, parts_PNI, gain, out_NI, normed_NI, inputs, eps,
        PARTS=0 if parts_PNI is None else len(parts_PNI), BLOCK_I=triton.next_power_of_2(inputs), num_warps=4,
    )  # fmt: skip
    return normed_NI
