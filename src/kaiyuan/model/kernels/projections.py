"""Linear layers in fp8 that take the same input, which is coded once: attention's query, key and value, and its output.

The plain form is ``x @ weight.T`` for each weight. Forwards and to the input products are in fp8; gradients of weights
are products in the activations' dtype, as in ``feed_forward``.

Shapes: N rows, I inputs, O outputs of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kaiyuan.model.kernels.fp8 import Codes, rows_of
from kaiyuan.model.kernels.matrices import coded_product


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Sequence[Codes], *uses_and_weights: Tensor) -> tuple[Tensor, ...]:
        x_NI = uses_and_weights[0].contiguous()
        ctx.save_for_backward(x_NI)
        ctx.codes = codes
        rows = rows_of(x_NI)
        return tuple(coded_product(rows, of.codes, of.scale_EO, None, x_NI.dtype) for of in codes)

    @staticmethod
    def backward(ctx: Any, *grads_NO: Tensor) -> tuple[Tensor | None, ...]:
        (x_NI,) = ctx.saved_tensors
        grads_x = [
            coded_product(rows_of(grad_NO.contiguous()), of.turned, of.scale_EI, None, x_NI.dtype)
            for grad_NO, of in zip(grads_NO, ctx.codes, strict=True)
        ]
        return None, *grads_x, *(grad_NO.t() @ x_NI for grad_NO in grads_NO)


def projections(uses: Sequence[Tensor], weights: Sequence[Tensor], codes: Sequence[Codes]) -> list[Tensor]:
    """``x @ weight.T`` (..., O) for every weight (O, I), multiplied by its ``codes``.

    ``uses`` holds ``x`` (..., I) once for each weight: each gets a gradient of its own, so that they can be added up
    where they are needed (``RMSNorm.beside``). Numbers of ``weights`` are not read.
    """
    outs = _Projections.apply(codes, *(use.flatten(0, -2) for use in uses), *weights)
    return [out.view(*uses[0].shape[:-1], -1) for out in outs]
