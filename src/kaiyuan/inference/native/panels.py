"""Weights in the panels that the library reads, and modules that compute with them.

A panel holds 32 outputs; its row k has the next 1 (float32), 2 (bfloat16), 4 (int8) or 8 (int4) inputs of each of them,
so that a product reads memory in order. Inputs are padded with zeros to whole tiles of the matrix unit, outputs to
panels. ``source/matrix.hpp`` reads them.

Shapes: O outputs, I inputs, F width of an expert, D hidden size, N rows, P panels.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.inference.native import structs
from kaiyuan.inference.native.library import library
from kaiyuan.inference.native.memory import Arena
from kaiyuan.model.experts import Dispatch, Experts
from kaiyuan.model.linear import Linear
from kaiyuan.model.quantization import QuantizedExperts, QuantizedLinear
from kaiyuan.model.transformer import Transformer

PANEL = 32
LANES = 16
_TOGETHER = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}
_INT4 = torch.uint8
_NIBBLE = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]) * 4
"""By how many bits each of 8 inputs is shifted in a word of int4 codes."""


def is_known(weight: Tensor) -> bool:
    """Whether the library multiplies weights of this kind."""
    return weight.device.type == "cpu" and (weight.dtype in _TOGETHER or weight.dtype == _INT4)


class Panels:
    """One matrix (O, I) in panels; ``scale`` belongs to codes as ``model.quantization.quantize`` makes them."""

    def __init__(self, arena: Arena, weight: Tensor, scale: Tensor | None = None) -> None:
        self.outs, self.ins = len(weight), weight.shape[1] * (2 if weight.dtype == _INT4 else 1)
        spare = -self.outs % PANEL
        weight = F.pad(weight.detach(), (0, 0, 0, spare))
        self.scale = None if scale is None else F.pad(scale.detach().float(), (0, 0, 0, spare))
        self.sums: Tensor | None = None
        if weight.dtype == _INT4:
            assert self.scale is not None
            self.format = structs.INT4
            self.data = arena.keep(_int4_words(weight).unflatten(0, (-1, PANEL)).transpose(1, 2))
            self.scale = self.scale.unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()
            return
        together = _TOGETHER[weight.dtype]
        padded = F.pad(weight, (0, -self.ins % (together * LANES)))
        self.format = structs.FORMATS[weight.dtype]
        self.data = arena.keep(padded.unflatten(1, (-1, together)).unflatten(0, (-1, PANEL)).transpose(1, 2))
        if self.scale is not None:
            self.sums = padded.sum(1, dtype=torch.int32)

    def struct(self) -> structs.Matrix:
        """For the library; lives no longer than this object."""
        return structs.Matrix(
            structs.address(self.data), structs.address(self.scale), structs.address(self.sums),
            self.format, self.outs, self.ins, len(self.data),
        )  # fmt: skip

    def __call__(self, x_NI: Tensor) -> Tensor:
        """``x @ weight.T`` in the dtype of ``x``: (N, O)."""
        rows = x_NI.reshape(-1, self.ins).float().contiguous()
        out = torch.empty(len(rows), len(self.data) * PANEL)
        library().kaiyuan_product(
            ctypes.byref(self.struct()), rows.data_ptr(), out.data_ptr(), len(rows), torch.get_num_threads()
        )
        return out[:, : self.outs].to(x_NI.dtype)


def _int4_words(codes: Tensor) -> Tensor:
    """Codes (O, I / 2), two a byte, as int32 words (O, I / 8) of 8 inputs each."""
    each = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1).unflatten(1, (-1, 8)).to(torch.int64)
    words = (each << _NIBBLE).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def by_turns(gate_up: Tensor) -> Tensor:
    """Rows of gate and up (2F, ...) by turns of 16, padded: a panel of the result has 16 of each."""
    gate, up = (F.pad(half, (0, 0, 0, -len(half) % LANES)).unflatten(0, (-1, LANES)) for half in gate_up.chunk(2))
    return torch.stack((gate, up), dim=1).flatten(0, 2)


def in_turn(out_NH: Tensor, width: int) -> Tensor:
    """Undo ``by_turns`` in a product's result: (N, 2F)."""
    halves = out_NH.unflatten(1, (-1, 2, LANES)).transpose(1, 2).flatten(2)[:, :, :width]
    return halves.flatten(1)


class PanelLinear(nn.Module):
    """Takes the place of ``Linear`` or ``QuantizedLinear``; for inference only."""

    def __init__(self, arena: Arena, weight: Tensor, scale: Tensor | None = None) -> None:
        super().__init__()
        self.panels = Panels(arena, weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.panels(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class PanelGateUp(nn.Module):
    """The first matrix of a SwiGLU."""

    def __init__(self, arena: Arena, gate_up: Tensor, scale: Tensor | None = None) -> None:
        super().__init__()
        self.width = len(gate_up) // 2
        self.panels = Panels(arena, by_turns(gate_up), None if scale is None else by_turns(scale))

    def forward(self, x: Tensor) -> Tensor:
        return in_turn(self.panels(x.flatten(0, -2)), self.width).unflatten(0, x.shape[:-1])


class PanelExperts(Experts):
    """Takes the place of ``Experts``; for inference only."""

    training_kernels = False

    def __init__(self, arena: Arena, experts: Experts) -> None:
        nn.Module.__init__(self)
        scales: list[Tensor | None] = [None, None]
        if isinstance(experts, QuantizedExperts):
            scales = [experts.get_buffer(f"{name}_scale") for name in ("gate_up", "down")]
        gate_up, down = experts.gate_up.detach(), experts.down.detach()
        each: list[list[Tensor | None]] = [[None] * len(gate_up) if scale is None else list(scale) for scale in scales]
        self.up = [PanelGateUp(arena, weight, scale) for weight, scale in zip(gate_up, each[0], strict=True)]
        self.low = [Panels(arena, weight, scale) for weight, scale in zip(down, each[1], strict=True)]

    def computed(self, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        return self.directly(x_TD[dispatch.token_N], dispatch.counts_E.tolist())

    def product(self, which: str, expert: int, x_ND: Tensor) -> Tensor:
        return self.up[expert](x_ND) if which == "gate_up" else self.low[expert](x_ND)


def can_panel(model: Transformer) -> bool:
    """Whether all matrices of ``model`` are of kinds that the library multiplies."""
    weights = [model.head_weight]
    for block in model.layers:
        for module in block.modules():
            if isinstance(module, Linear):
                weights.append(module.weight)
            elif isinstance(module, QuantizedLinear):
                weights.append(module.codes)
            elif isinstance(module, Experts):
                weights += [module.gate_up, module.down]
    return all(is_known(weight) for weight in weights)


def panel_model(model: Transformer) -> Transformer:
    """Lay the matrices of ``model`` out in place, layer by layer, and its head; returns it.

    Such a model can neither be trained nor saved any more.
    """
    arena = Arena()
    for parent in list(model.layers.modules()):
        for name, child in parent.named_children():
            gates = PanelGateUp if name == "gate_up" else PanelLinear
            if isinstance(child, Linear):
                setattr(parent, name, gates(arena, child.weight))
            elif isinstance(child, QuantizedLinear):
                setattr(parent, name, gates(arena, child.codes, child.scale))
            elif isinstance(child, Experts) and not isinstance(child, PanelExperts):
                setattr(parent, name, PanelExperts(arena, child))
    model.packed_head = PanelLinear(arena, model.head_weight)
    return model
