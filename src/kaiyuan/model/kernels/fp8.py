"""Numbers in fp8 (e4m3) for matrix products: activations with a scale for each row, weights with one for each matrix.

A row's largest number becomes 448, the largest of e4m3. A weight's codes are kept twice, as they are and turned, since
products want both sides to lie along the sum; one scale for the whole matrix serves both. Sums over tokens, which
gradients of weights are, would need a third form of everything: they stay in bfloat16.

Shapes: N rows, D their length, E matrices (experts; 1 for a layer alone), O outputs, I inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.model.kernels import rows

E4M3 = torch.float8_e4m3fn
_MOST = tl.constexpr(448.0)
_LEAST = tl.constexpr(1e-30)
_TILE = 128
_PROGRAMS = 2048
"""Programs that look for the largest numbers of all matrices."""


class Rows(NamedTuple):
    """Activations ``codes * scale``."""

    codes: Tensor
    """e4m3 (N, D)."""
    scale_N: Tensor
    """float32."""

    def gather(self, token_N: Tensor, kept: Tensor) -> Rows:
        """As ``rows.gather``."""
        return Rows(rows.gather(self.codes, token_N, kept), self.scale_N[token_N])


class Codes(NamedTuple):
    """Weights ``codes * scale``."""

    codes: Tensor
    """e4m3 (E, O, I)."""
    turned: Tensor
    """e4m3 (E, I, O): the same."""
    scale_EO: Tensor
    """float32; one number for each matrix, repeated as products with ``codes`` want it."""
    scale_EI: Tensor
    """The same for products with ``turned``."""
    largest_E: Tensor
    """float32; the largest absolute number of each matrix, from which the scales were taken."""


@triton.jit
def scale_of(largest):
    """What to divide by so that ``largest`` becomes the largest number of e4m3."""
    return tl.maximum(largest, _LEAST) / _MOST


@triton.jit
def code(x, scale):
    return tl.minimum(tl.maximum(x / scale, -_MOST), _MOST).to(tl.float8e4nv)


@triton.jit
def encode_row(row, codes, scales, number, size, largest, BLOCK: tl.constexpr):
    """Codes of a row that this program has just written, ``largest`` its greatest absolute number."""
    tl.debug_barrier()
    scale = scale_of(largest)
    tl.store(scales + number, scale)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(codes + i, code(tl.load(row + i, i < size, 0.0).to(tl.float32), scale), i < size)


@triton.jit
def _fp8_rows(x, token, kept, out, codes, scales, size, GATHER: tl.constexpr, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = i < size
    source = row
    if GATHER:
        if row >= tl.load(kept):
            return
        source = tl.load(token + row).to(tl.int64)
    value = tl.load(x + source * size + i, inside, 0.0)
    if GATHER:
        tl.store(out + row * size + i, value, inside)
    wide = value.to(tl.float32)
    scale = scale_of(tl.max(tl.abs(wide), 0))
    tl.store(scales + row, scale)
    tl.store(codes + row * size + i, code(wide, scale), inside)


def rows_of(x_ND: Tensor) -> Rows:
    """The rows of ``x`` in fp8."""
    found = room(len(x_ND), x_ND.shape[1], x_ND)
    if len(x_ND):
        size = x_ND.shape[1]
        _fp8_rows[(len(x_ND),)](
            x_ND, x_ND, x_ND, x_ND, *found, size, GATHER=False, BLOCK=triton.next_power_of_2(size), num_warps=4
        )  # fmt: skip
    return found


def gathered_rows(x_TD: Tensor, token_N: Tensor, kept: Tensor) -> tuple[Tensor, Rows]:
    """``rows.gather`` and the same in fp8."""
    size = x_TD.shape[1]
    out_ND, found = x_TD.new_empty(len(token_N), size), room(len(token_N), size, x_TD)
    if len(token_N):
        _fp8_rows[(len(token_N),)](
            x_TD, token_N, kept, out_ND, *found, size, GATHER=True, BLOCK=triton.next_power_of_2(size), num_warps=4
        )  # fmt: skip
    return out_ND, found


def room(count: int, size: int, like: Tensor) -> Rows:
    """For so many rows, where ``like`` is."""
    return Rows(like.new_empty(count, size, dtype=E4M3), like.new_empty(count, dtype=torch.float32))


@triton.jit
def tile_places(OUTPUTS: tl.constexpr, INPUTS: tl.constexpr):
    """The matrix and the outputs and inputs that a program of a grid (inputs, outputs, E) of tiles has."""
    o, i = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(0) * INPUTS + tl.arange(0, INPUTS)
    return tl.program_id(2).to(tl.int64), o, i


@triton.jit
def encode_tile(value, largest, codes, turned, scale_o, scale_i, matrix, o, i, outputs, inputs):
    """Codes of a program's tile, as they are and turned; tiles at the first edges write the matrix's scales."""
    scale, first = scale_of(largest), matrix * outputs * inputs
    if tl.program_id(0) == 0:
        tl.store(scale_o + matrix * outputs + o, tl.zeros_like(o).to(tl.float32) + scale, o < outputs)
    if tl.program_id(1) == 0:
        tl.store(scale_i + matrix * inputs + i, tl.zeros_like(i).to(tl.float32) + scale, i < inputs)
    places, inside = o[:, None] * inputs + i[None, :], (o < outputs)[:, None] & (i < inputs)[None, :]
    tl.store(codes + first + places, code(value.to(tl.float32), scale), inside)
    places, inside = i[:, None] * outputs + o[None, :], (i < inputs)[:, None] & (o < outputs)[None, :]
    tl.store(turned + first + places, code(tl.trans(value).to(tl.float32), scale), inside)


@triton.jit
def _fp8_largest(weight, parts, numbers, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    matrix, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    most = tl.zeros((BLOCK,), tl.float32)
    for start in range(part * BLOCK, numbers, PARTS * BLOCK):
        i = start + tl.arange(0, BLOCK)
        most = tl.maximum(most, tl.abs(tl.load(weight + matrix * numbers + i, i < numbers, 0.0).to(tl.float32)))
    tl.store(parts + matrix * PARTS + part, tl.max(most, 0))


@triton.jit
def _fp8_matrices(
    weight, largest, codes, turned, scale_o, scale_i, outputs, inputs, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    matrix, o, i = tile_places(OUTPUTS, INPUTS)
    inside = (o < outputs)[:, None] & (i < inputs)[None, :]
    value = tl.load(weight + matrix * outputs * inputs + o[:, None] * inputs + i[None, :], inside, 0.0)
    most = tl.load(largest + matrix)
    encode_tile(value, most, codes, turned, scale_o, scale_i, matrix, o, i, outputs, inputs)


def codes_of(weight: Tensor, into: Codes | None = None, largest_E: Tensor | None = None) -> Codes:
    """The matrices of ``weight`` (E, O, I) or (O, I) in fp8, written over ``into`` if it is given. ``largest_E`` takes
    the place of their largest numbers; what is larger than that is cut off.

    Triton 3.6 puts some codes of a float32 tile in wrong places on a GPU, so it must be bfloat16 there.
    """
    if weight.is_cuda and weight.dtype != torch.bfloat16:
        raise TypeError(f"weights in {weight.dtype}: only those in bfloat16 can be coded on a GPU")
    weight_EOI = weight.detach() if weight.dim() == 3 else weight.detach()[None]
    experts, outputs, inputs = weight_EOI.shape
    if into is None:
        codes, turned = (
            weight.new_empty(experts, *size, dtype=E4M3) for size in ((outputs, inputs), (inputs, outputs))
        )
        numbers = (weight.new_empty(experts, size, dtype=torch.float32) for size in (outputs, inputs, 1))
        scale_EO, scale_EI, largest = numbers
        into = Codes(codes, turned, scale_EO, scale_EI, largest[:, 0])
    into.largest_E.copy_(_largest(weight_EOI) if largest_E is None else largest_E)
    _fp8_matrices[triton.cdiv(inputs, _TILE), triton.cdiv(outputs, _TILE), experts](
        weight_EOI, into.largest_E, *into[:4], outputs, inputs, OUTPUTS=_TILE, INPUTS=_TILE, num_warps=8
    )  # fmt: skip
    return into


def _largest(weight_EOI: Tensor) -> Tensor:
    """float32 (E,)."""
    experts, numbers = len(weight_EOI), weight_EOI[0].numel()
    programs = triton.next_power_of_2(triton.cdiv(_PROGRAMS, experts))
    parts = weight_EOI.new_empty(experts, programs, dtype=torch.float32)
    _fp8_largest[experts, programs](weight_EOI, parts, numbers, PARTS=programs, BLOCK=8192, num_warps=8)
    return parts.amax(1)
