"""The feed-forward layers of a training step on a GPU: library matrix products with one kernel between each two.

Both are autograd functions of their own: each gradient is computed in the layout its weight has, the combine weight
goes into the activation (so the down-projection's output needs no further pass and need not be kept), and with
``recompute`` nothing is kept but the input: the first product is done again in the backward pass.

Shapes: T tokens, D hidden size, F width, H = 2F, E experts, N assignments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.kernels import rows, swiglu


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


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, gate_up_HD: Tensor, down_DF: Tensor, recompute: bool) -> Tensor:
        hidden_TH = x_TD @ gate_up_HD.t()
        act_TF = swiglu.forward(hidden_TH)
        ctx.save_for_backward(x_TD, gate_up_HD, down_DF, *(() if recompute else (hidden_TH, act_TF)))
        return act_TF @ down_DF.t()

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_up_HD, down_DF, *kept = ctx.saved_tensors
        hidden_TH = kept[0] if kept else x_TD @ gate_up_HD.t()
        act_TF = kept[1] if kept else swiglu.forward(hidden_TH)
        grad_down = grad_TD.t() @ act_TF
        grad_hidden_TH, _ = swiglu.backward(grad_TD @ down_DF, hidden_TH)
        del hidden_TH, act_TF, kept
        return grad_hidden_TH @ gate_up_HD, grad_hidden_TH.t() @ x_TD, grad_down, None


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, base_TD: Tensor | None, gate_up_EHD: Tensor, down_EDF: Tensor, weight_N: Tensor,
        places: Places, recompute: bool,
    ) -> Tensor:  # fmt: skip
        weight_N = weight_N[places.order_N].float()
        hidden_NH = _hidden(x_TD, gate_up_EHD, places)
        act_NF = swiglu.forward(hidden_NH, weight_N)
        out_ND = F.grouped_mm(act_NF, down_EDF.transpose(1, 2), offs=places.ends_E)
        ctx.save_for_backward(
            x_TD, gate_up_EHD, down_EDF, weight_N, *places[:4], *(() if recompute else (hidden_NH, act_NF))
        )
        ctx.top_k, ctx.base = places.top_k, base_TD is not None
        return rows.combine(out_ND, base_TD, places.place_N, places.kept, places.top_k)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_up_EHD, down_EDF, weight_N, token_N, order_N, place_N, ends_E, *kept = ctx.saved_tensors
        places = Places(token_N, order_N, place_N, ends_E, ctx.top_k)
        hidden_NH = kept[0] if kept else _hidden(x_TD, gate_up_EHD, places)
        act_NF = kept[1] if kept else swiglu.forward(hidden_NH, weight_N)
        grad_ND = rows.gather(grad_TD.contiguous(), token_N, places.kept)
        grad_down = F.grouped_mm(grad_ND.t(), act_NF, offs=ends_E)
        grad_act_NF = F.grouped_mm(grad_ND, down_EDF, offs=ends_E)
        grad_hidden_NH, grad_weight_N = swiglu.backward(grad_act_NF, hidden_NH, weight_N, places.kept)
        del grad_ND, grad_act_NF, hidden_NH, act_NF, kept
        grad_rows_ND = F.grouped_mm(grad_hidden_NH, gate_up_EHD, offs=ends_E)
        grad_x_TD = rows.combine(grad_rows_ND, None, place_N, places.kept, ctx.top_k)
        x_ND = rows.gather(x_TD, token_N, places.kept)
        grad_gate_up = F.grouped_mm(grad_hidden_NH.t(), x_ND, offs=ends_E)
        assert grad_weight_N is not None
        return grad_x_TD, grad_TD if ctx.base else None, grad_gate_up, grad_down, grad_weight_N[place_N], None, None


def _hidden(x_TD: Tensor, gate_up_EHD: Tensor, places: Places) -> Tensor:
    x_ND = rows.gather(x_TD, places.token_N, places.kept)
    return F.grouped_mm(x_ND, gate_up_EHD.transpose(1, 2), offs=places.ends_E)


def dense(x: Tensor, gate_up_HD: Tensor, down_DF: Tensor, recompute: bool = False) -> Tensor:
    """``swiglu(x @ gate_up.T) @ down.T``, (..., D) to (..., D)."""
    return _Dense.apply(x.flatten(0, -2), gate_up_HD, down_DF, recompute).view(x.shape)


def grouped(
    x_TD: Tensor, base_TD: Tensor | None, gate_up_EHD: Tensor, down_EDF: Tensor, weight_N: Tensor, places: Places,
    recompute: bool = False,
) -> Tensor:  # fmt: skip
    """``base`` plus each token's weighted sum of its experts' outputs, (T, D). Weights in the dtype of ``x_TD``."""
    return _Grouped.apply(x_TD, base_TD, gate_up_EHD, down_EDF, weight_N, places, recompute)
