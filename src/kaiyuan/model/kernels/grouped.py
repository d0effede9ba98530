"""The product of groups of rows with a matrix of each group's own, in fp8.

PyTorch's (``_scaled_grouped_mm``) takes 15% longer on Hopper (docs/lab-notes.md). Programs, one for each
multiprocessor, go through the tiles of all groups' outputs; the number of tiles is known on the device alone. A tile's
last rows may be those of the next group: they are multiplied with the wrong matrix and not written.

Hopper adds up e4m3 products in fewer bits than float32 has, which is accepted: dense products do so too
(``use_fast_accum``), and losses stay within what another order of batches changes (docs/lab-notes.md).

Shapes: N rows, O outputs, I inputs, E experts.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, OUTPUTS, INPUTS = 128, 256, 128
"""A tile, and the inputs that are added up at a time."""
_BAND = tl.constexpr(4)
"""Tiles of rows that take a matrix's tile one after the other, while it is in the cache."""


@triton.jit
def _at(value_e, expert):
    """``value_e[expert]``."""
    return tl.sum(tl.where(tl.arange(0, value_e.shape[0]) == expert, value_e, 0), 0)


@triton.jit
def _place(tile, start_e, end_e, tiles_e, last_e, tiles_o, ROWS: tl.constexpr, OUTPUTS: tl.constexpr):
    """Of a tile: its expert, its first row, where that expert's rows end, and its first output.

    Tiles are numbered expert by expert, up to ``last_e``; an expert has ``tiles_e`` of rows times ``tiles_o`` of
    outputs. Its tiles of rows form bands of ``_BAND``, the last of which may be smaller. A band goes through the
    outputs, and for each tile of those through its rows.
    """
    expert = tl.sum((last_e <= tile).to(tl.int32), 0)
    end, tiles_n = _at(end_e, expert), _at(tiles_e, expert)
    in_expert = tile - _at(last_e - tiles_e * tiles_o, expert)
    band_start = in_expert // (_BAND * tiles_o) * _BAND
    band_rows, in_band = tl.minimum(tiles_n - band_start, _BAND), in_expert % (_BAND * tiles_o)
    row = _at(start_e, expert) + (band_start + in_band % band_rows) * ROWS
    output = in_band // band_rows * OUTPUTS
    return expert, row, end, output


@triton.jit
def _grouped_product(
    x, weight, out_tiles, out, scale_n, scale_o, ends, outputs, inputs, tiles_o, PROGRAMS: tl.constexpr,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    e = tl.arange(0, PAD)
    end_e = tl.load(ends + e, e < EXPERTS, 0)
    start_e = tl.load(ends + e - 1, (e > 0) & (e < EXPERTS), 0)
    tiles_e = tl.where(e < EXPERTS, (end_e - start_e + ROWS - 1) // ROWS, 0)
    last_e = tl.cumsum(tiles_e, 0) * tiles_o
    for tile in tl.range(tl.program_id(0), tl.max(last_e, 0), PROGRAMS):
        expert, row, end, output = _place(tile, start_e, end_e, tiles_e, last_e, tiles_o, ROWS, OUTPUTS)
        total = tl.zeros((ROWS, OUTPUTS), tl.float32)
        for i in tl.range(0, inputs, INPUTS):
            total = tl.dot(x.load([row, i]), weight.load([expert * outputs + output, i]).T, total)
        n, o = row + tl.arange(0, ROWS), output + tl.arange(0, OUTPUTS)
        total *= tl.load(scale_n + n, n < end, 0.0)[:, None]
        total *= tl.load(scale_o + expert * outputs + o, o < outputs, 0.0)[None, :]
        found = total.to(out.dtype.element_ty)
        if row + ROWS <= end:
            out_tiles.store([row, output], found)
        else:
            places = n.to(tl.int64)[:, None] * outputs + o[None, :]
            tl.store(out + places, found, (n < end)[:, None] & (o < outputs)[None, :])


def grouped_product(
    x_NI: Tensor, scale_N: Tensor, weight_EOI: Tensor, scale_EO: Tensor, ends_E: Tensor, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    """``(x * scale) @ (weight[e] * scale[e]).T`` (N, O) in ``dtype``, for each expert on the rows that end at
    ``ends_E`` (int32); rows after the last are left as they are in memory. ``x`` and ``weight`` are e4m3, I a multiple
    of 16 and O of 8.
    """
    experts, outputs, inputs = weight_EOI.shape
    out_NO = torch.empty(len(x_NI), outputs, dtype=dtype, device=x_NI.device)
    if len(x_NI):
        tiles = TensorDescriptor.from_tensor(x_NI, [ROWS, INPUTS])
        weights = TensorDescriptor.from_tensor(weight_EOI.view(-1, inputs), [OUTPUTS, INPUTS])
        programs = _programs(x_NI.device)
        _grouped_product[(programs,)](
            tiles, weights, TensorDescriptor.from_tensor(out_NO, [ROWS, OUTPUTS]), out_NO, scale_N, scale_EO, ends_E,
            outputs, inputs, triton.cdiv(outputs, OUTPUTS), PROGRAMS=programs, EXPERTS=experts, ROWS=ROWS,
            OUTPUTS=OUTPUTS, INPUTS=INPUTS, PAD=triton.next_power_of_2(experts), num_warps=8, num_stages=3,
        )  # fmt: skip
    return out_NO


@functools.cache
def _programs(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
