"""Weights laid out for the CPU's own matrix kernels (oneDNN), once, when a model is loaded for inference.

PyTorch lays a weight out anew at every product otherwise, or reads it in an order that memory does not like: with few
rows, where reading weights is all that takes time, the packed product is 1.3 to 5 times as fast (docs/lab-notes.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kaiyuan.model.device import multiplies_bfloat16
from kaiyuan.model.experts import Dispatch, Experts
from kaiyuan.model.linear import Linear
from kaiyuan.model.transformer import Transformer


def can_pack(model: Transformer) -> bool:
    """Whether this machine and the model's weights can be packed: bfloat16 on a CPU that has products of it."""
    weight = model.embed.weight
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and multiplies_bfloat16(weight.device)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)


def _product(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


class PackedLinear(nn.Module):
    """Takes the place of ``Linear``; for inference in bfloat16 only."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = _pack(weight)

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.packed)


class PackedExperts(Experts):
    """Takes the place of ``Experts``; for inference in bfloat16 only."""

    training_kernels = False

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        self._packed = {
            name: [_pack(weight) for weight in getattr(experts, name).detach()] for name in ("gate_up", "down")
        }

    def computed(self, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        return self.directly(x_TD[dispatch.token_N], dispatch.counts_E.tolist())

    def product(self, which: str, expert: int, x_ND: Tensor) -> Tensor:
        return _product(x_ND, self._packed[which][expert])


def pack_model(model: Transformer) -> Transformer:
    """Pack the matrices of ``model`` in place, layer by layer, and its head; returns it.

    Such a model can neither be trained nor saved any more.
    """
    for parent in list(model.layers.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Linear):
                setattr(parent, name, PackedLinear(child.weight))
            elif isinstance(child, Experts) and not isinstance(child, PackedExperts):
                setattr(parent, name, PackedExperts(child))
    model.packed_head = PackedLinear(model.head_weight)
    return model
