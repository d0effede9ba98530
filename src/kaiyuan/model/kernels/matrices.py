"""Matrix products of feed-forward layers, dense or of groups of rows, in the activations' own dtype or in fp8; those in
fp8 are attention's too. PyTorch has all but the products of groups in fp8, which are a kernel of ours (``grouped``).

Shapes: N rows, O outputs, I inputs, E experts.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.kernels.fp8 import Codes, Rows, rows_of
from kaiyuan.model.kernels.grouped import grouped_product

Operand: TypeAlias = Tensor | Rows


class Weight(NamedTuple):
    """(O, I), or (E, O, I) of which each expert multiplies its own rows."""

    matrix: Tensor
    codes: Codes | None = None
    """The same in fp8; products take it if it is there."""


def operand(x_NI: Tensor, weight: Weight) -> Operand:
    """``x`` as products with ``weight`` take it."""
    return x_NI if weight.codes is None else rows_of(x_NI)


def forwards(x: Operand, weight: Weight, ends_E: Tensor | None = None) -> Tensor:
    """``x @ weight.T`` (N, O); with ``ends`` (int32) each expert's on the rows that end there."""
    if isinstance(x, Rows):
        assert weight.codes is not None
        return coded_product(x, weight.codes.codes, weight.codes.scale_EO, ends_E, weight.matrix.dtype)
    return x @ weight.matrix.t() if ends_E is None else F.grouped_mm(x, weight.matrix.transpose(1, 2), offs=ends_E)


def backwards(grad: Operand, weight: Weight, ends_E: Tensor | None = None) -> Tensor:
    """``grad @ weight`` (N, I), likewise."""
    if isinstance(grad, Rows):
        assert weight.codes is not None
        return coded_product(grad, weight.codes.turned, weight.codes.scale_EI, ends_E, weight.matrix.dtype)
    return grad @ weight.matrix if ends_E is None else F.grouped_mm(grad, weight.matrix, offs=ends_E)


def coded_product(x: Rows, codes_EOI: Tensor, scale_EO: Tensor, ends_E: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``forwards`` for a weight in e4m3 with a float32 scale for each output."""
    if ends_E is None:
        return torch._scaled_mm(
            x.codes, codes_EOI[0].t(), x.scale_N[:, None], scale_EO, out_dtype=dtype, use_fast_accum=x.codes.is_cuda
        )
    if not x.codes.is_cuda:
        return _one_by_one(x, codes_EOI, scale_EO, ends_E, dtype)
    return grouped_product(*x, codes_EOI, scale_EO, ends_E, dtype)


def _one_by_one(x: Rows, codes_EOI: Tensor, scale_EO: Tensor, ends_E: Tensor, dtype: torch.dtype) -> Tensor:
    """The grouped product where our kernel does not run: on a CPU, for tests."""
    out_NO = x.scale_N.new_zeros(len(x.codes), codes_EOI.shape[1], dtype=dtype)
    start = 0
    for expert, end in enumerate(ends_E.tolist()):
        if end > start:
            some = Rows(x.codes[start:end], x.scale_N[start:end])
            out_NO[start:end] = coded_product(some, codes_EOI[expert, None], scale_EO[expert, None], None, dtype)
        start = end
    return out_NO
