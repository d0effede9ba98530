"""The feed-forward layers of a training step on a GPU: matrix products (``matrices``), one kernel between each two.

Both are autograd functions of their own: each gradient is computed in the layout its weight has, the combine weight
goes into the activation (so the down-projection's output needs no further pass and need not be kept), and with
``recompute`` nothing is kept but the input: the first product is done again in the backward pass. Weights with codes
in fp8 are multiplied so, forwards and to their inputs; their own gradients are products in the activations' dtype.

Shapes: T tokens, D hidden size, F width, H = 2F, E experts, N assignments.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.kernels import fp8, rows, swiglu
from kaiyuan.model.kernels.fp8 import Codes, Rows
from kaiyuan.model.kernels.matrices import Operand, Weight, backwards, forwards, operand


class Places(NamedTuple):
    """Where assignments stand when sorted by expert."""

    token_N: Tensor
    """int64; the token of each sorted row."""
    order_N: Tensor
    """int64; the assignment of each sorted row."""
    place_N: Tensor
    """int64; the sorted row of each assignment, the inverse of ``order_N``."""
    ends_E: Tensor
    """int32; where each expert's rows end. Rows after the last belong to no expert."""
    top_k: int

    @property
    def kept(self) -> Tensor:
        return self.ends_E[-1:]


BothCodes: TypeAlias = tuple[Codes, Codes] | None
"""Of both weights in fp8; None to multiply in the activations' dtype."""


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, gate_up_HD: Tensor, down_DF: Tensor, codes: BothCodes, coded: Rows | None,
        recompute: bool,
    ) -> Tensor:  # fmt: skip
        gate_up, down = _weights(gate_up_HD, down_DF, codes)
        hidden_TH = forwards(coded or operand(x_TD, gate_up), gate_up)
        act_TF, inner = _activated(hidden_TH, down)
        ctx.save_for_backward(x_TD, gate_up_HD, down_DF, *(() if recompute else (hidden_TH, act_TF)))
        ctx.codes = codes
        return forwards(inner, down)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_up_HD, down_DF, *kept = ctx.saved_tensors
        gate_up, down = _weights(gate_up_HD, down_DF, ctx.codes)
        hidden_TH = kept[0] if kept else forwards(operand(x_TD, gate_up), gate_up)
        act_TF = kept[1] if kept else swiglu.forward(hidden_TH)
        grad_down = grad_TD.t() @ act_TF
        grad_act_TF = backwards(operand(grad_TD.contiguous(), down), down)
        grad_hidden_TH, _, coded = swiglu.backward(grad_act_TF, hidden_TH, coded=ctx.codes is not None)
        del grad_act_TF, hidden_TH, act_TF, kept
        return backwards(coded or grad_hidden_TH, gate_up), grad_hidden_TH.t() @ x_TD, grad_down, None, None, None


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, base_TD: Tensor | None, residual_TD: Tensor | None, gate_up_EHD: Tensor,
        down_EDF: Tensor, weight_N: Tensor, places: Places, codes: BothCodes, coded: Rows | None, recompute: bool,
    ) -> Tensor:  # fmt: skip
        gate_up, down = _weights(gate_up_EHD, down_EDF, codes)
        weight_N = weight_N[places.order_N].float()
        hidden_NH = _hidden(x_TD, gate_up, places, coded)
        act_NF, inner = _activated(hidden_NH, down, weight_N)
        out_ND = forwards(inner, down, places.ends_E)
        ctx.save_for_backward(
            x_TD, gate_up_EHD, down_EDF, weight_N, *places[:4], *(() if recompute else (hidden_NH, act_NF))
        )
        ctx.top_k, ctx.added, ctx.codes = places.top_k, (base_TD is not None, residual_TD is not None), codes
        return rows.combine(out_ND, base_TD, places.place_N, places.kept, places.top_k, residual_TD)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_up_EHD, down_EDF, weight_N, token_N, order_N, place_N, ends_E, *kept = ctx.saved_tensors
        places = Places(token_N, order_N, place_N, ends_E, ctx.top_k)
        gate_up, down = _weights(gate_up_EHD, down_EDF, ctx.codes)
        hidden_NH = kept[0] if kept else _hidden(x_TD, gate_up, places)
        act_NF = kept[1] if kept else swiglu.forward(hidden_NH, weight_N)
        grad_ND, inner = _gathered(grad_TD.contiguous(), down, places)
        grad_down = F.grouped_mm(grad_ND.t(), act_NF, offs=ends_E)
        grad_act_NF = backwards(inner, down, ends_E)
        grad_hidden_NH, grad_weight_N, coded = swiglu.backward(
            grad_act_NF, hidden_NH, weight_N, places.kept, coded=ctx.codes is not None
        )
        del grad_ND, inner, grad_act_NF, hidden_NH, act_NF, kept
        grad_rows_ND = backwards(coded or grad_hidden_NH, gate_up, ends_E)
        grad_x_TD = rows.combine(grad_rows_ND, None, place_N, places.kept, ctx.top_k)
        x_ND = rows.gather(x_TD, token_N, places.kept)
        grad_gate_up = F.grouped_mm(grad_hidden_NH.t(), x_ND, offs=ends_E)
        assert grad_weight_N is not None
        of_added = (grad_TD if added else None for added in ctx.added)
        return grad_x_TD, *of_added, grad_gate_up, grad_down, grad_weight_N[place_N], None, None, None, None


def _weights(gate_up: Tensor, down: Tensor, codes: BothCodes) -> tuple[Weight, Weight]:
    return (Weight(gate_up), Weight(down)) if codes is None else (Weight(gate_up, codes[0]), Weight(down, codes[1]))


def _activated(hidden_NH: Tensor, down: Weight, weight_N: Tensor | None = None) -> tuple[Tensor, Operand]:
    """The activation, and the form in which ``down`` takes it."""
    if down.codes is not None:
        return swiglu.forward_coded(hidden_NH, weight_N)
    act_NF = swiglu.forward(hidden_NH, weight_N)
    return act_NF, act_NF


def _hidden(x_TD: Tensor, gate_up: Weight, places: Places, coded: Rows | None = None) -> Tensor:
    if gate_up.codes is None:
        return forwards(rows.gather(x_TD, places.token_N, places.kept), gate_up, places.ends_E)
    coded = coded or fp8.rows_of(x_TD)
    return forwards(coded.gather(places.token_N, places.kept), gate_up, places.ends_E)


def _gathered(grad_TD: Tensor, down: Weight, places: Places) -> tuple[Tensor, Operand]:
    """Every row's gradient, and the form in which ``down`` takes it."""
    if down.codes is not None:
        return fp8.gathered_rows(grad_TD, places.token_N, places.kept)
    grad_ND = rows.gather(grad_TD, places.token_N, places.kept)
    return grad_ND, grad_ND


def dense(
    x: Tensor, gate_up_HD: Tensor, down_DF: Tensor, recompute: bool = False, codes: BothCodes = None,
    coded: Rows | None = None,
) -> Tensor:  # fmt: skip
    """``swiglu(x @ gate_up.T) @ down.T``, (..., D) to (..., D). ``coded`` is ``x`` in fp8, if that is there already."""
    return _Dense.apply(x.flatten(0, -2), gate_up_HD, down_DF, codes, coded, recompute).view(x.shape)


def grouped(
    x_TD: Tensor, base_TD: Tensor | None, gate_up_EHD: Tensor, down_EDF: Tensor, weight_N: Tensor, places: Places,
    recompute: bool = False, codes: BothCodes = None, coded: Rows | None = None, residual_TD: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``base`` plus each token's weighted sum of its experts' outputs, plus ``residual``: (T, D). Weights in the dtype
    of ``x_TD``; ``coded`` is that in fp8, if it is there already.
    """
    residual_TD = None if residual_TD is None else residual_TD.contiguous()
    return _Grouped.apply(x_TD, base_TD, residual_TD, gate_up_EHD, down_EDF, weight_N, places, codes, coded, recompute)
