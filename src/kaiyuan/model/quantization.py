"""Weights in 8 or 4 bits: how they are coded, and layers that compute with the codes.

- ``int8``: symmetric, one scale for each output row.
- ``int4``: symmetric, one scale for each group of 64 inputs of a row; two codes a byte.
- ``fp8``: e4m3 with one scale for each output row; a GPU with products in fp8 takes activations in it too,
  row by row, as they come.

Coded are the matrices of attention and experts. Embedding, head, norms and the router keep their precision: they are
small, and the router decides.

Shapes: O outputs, I inputs, E experts, N rows of activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.dtypes import FP8_MAX, choose
from kaiyuan.model.experts import Dispatch, Experts
from kaiyuan.model.fused import on_gpu
from kaiyuan.model.linear import Linear
from kaiyuan.model.transformer import Transformer

Scheme = Literal["int8", "int4", "fp8"]
SCHEMES: tuple[Scheme, ...] = ("int8", "int4", "fp8")
GROUP = 64
_SMALL = 1e-12


def scheme_named(name: str) -> Scheme:
    """The scheme of that name, or a ``KaiyuanError`` that says which there are."""
    return choose("quantize", name, {scheme: scheme for scheme in SCHEMES})


def quantize(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Codes and float32 scales of ``weight`` (..., O, I).

    int8 and fp8: codes (..., O, I), scales (..., O, 1). int4: codes uint8 (..., O, I / 2), the even input in the low
    half, scales (..., O, I / 64). Coding what ``dequantize`` gives returns the same codes.
    """
    weight = weight.float()
    if scheme == "int4":
        groups = weight.unflatten(-1, (-1, GROUP))
        scale = (groups.abs().amax(-1, keepdim=True) / 7).clamp(min=_SMALL)
        codes = ((groups / scale).round().clamp(-7, 7) + 8).to(torch.uint8).flatten(-2)
        return codes[..., 0::2] | codes[..., 1::2] << 4, scale.squeeze(-1)
    largest = weight.abs().amax(-1, keepdim=True)
    if scheme == "int8":
        scale = (largest / 127).clamp(min=_SMALL)
        return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale
    scale = (largest / FP8_MAX).clamp(min=_SMALL)
    return (weight / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def dequantize(codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights that the codes stand for, (..., O, I)."""
    if codes.dtype == torch.uint8:
        halves = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2).to(torch.int8) - 8
        return (halves.unflatten(-1, (-1, GROUP)) * scale[..., None]).flatten(-2).to(dtype)
    return (codes.float() * scale).to(dtype)


def fits(shape: Sequence[int], scheme: Scheme) -> bool:
    """Whether a matrix of this shape can be coded."""
    return scheme != "int4" or shape[-1] % GROUP == 0


def coded_product(x_NI: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """``x @ dequantize(codes, scale).T``: (N, I) to (N, O)."""
    if codes.dtype == torch.int8:
        if x_NI.device.type == "cpu" and x_NI.dtype == torch.bfloat16 and len(x_NI) <= _FEW_ROWS:
            return torch._weight_int8pack_mm(x_NI, codes, scale.flatten().to(x_NI.dtype))
        return F.linear(x_NI, codes.to(x_NI.dtype)).mul_(scale.flatten().to(x_NI.dtype))
    if codes.dtype == torch.float8_e4m3fn and _has_fp8_products(codes):
        return _fp8_product(x_NI, codes, scale)
    return F.linear(x_NI, dequantize(codes, scale, x_NI.dtype))


_FEW_ROWS = 16
"""Up to so many rows reading the weights is what takes time, and PyTorch's int8 kernel reads half of bfloat16's."""


def _has_fp8_products(codes: Tensor) -> bool:
    if codes.device.type != "cuda" or any(size % 16 for size in codes.shape):
        return False
    return torch.cuda.get_device_capability(codes.device) >= (8, 9)


def _fp8_product(x_NI: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Both sides in fp8, activations with a scale for each row."""
    x_codes, x_scale = _coded_rows(x_NI)
    return torch._scaled_mm(
        x_codes, codes.t(), scale_a=x_scale, scale_b=scale.reshape(1, -1), out_dtype=torch.bfloat16
    ).to(x_NI.dtype)


def _coded_rows(x_NI: Tensor) -> tuple[Tensor, Tensor]:
    if on_gpu(x_NI):
        from kaiyuan.model.kernels.fp8 import rows_of

        rows = rows_of(x_NI.contiguous())
        return rows.codes, rows.scale_N[:, None]
    scale = (x_NI.float().abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=_SMALL)
    return (x_NI.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


class QuantizedLinear(nn.Module):
    """Takes the place of ``Linear``; for inference only."""

    codes: Tensor
    scale: Tensor

    def __init__(self, linear: Linear, scheme: Scheme) -> None:
        super().__init__()
        codes, scale = quantize(linear.weight.detach(), scheme)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return coded_product(x.flatten(0, -2), self.codes, self.scale).unflatten(0, x.shape[:-1])


class QuantizedExperts(Experts):
    """Takes the place of ``Experts``; for inference only."""

    training_kernels = False

    def __init__(self, experts: Experts, scheme: Scheme) -> None:
        nn.Module.__init__(self)
        for name in ("gate_up", "down"):
            coded = [quantize(weight, scheme) for weight in getattr(experts, name).detach()]  # one at a time: memory
            self.register_buffer(name, torch.stack([codes for codes, _ in coded]))
            self.register_buffer(f"{name}_scale", torch.stack([scale for _, scale in coded]))

    def computed(self, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        if self._multiplies_groups(x_TD):
            return self.in_groups(x_TD, dispatch)
        return self.directly(x_TD[dispatch.token_N], dispatch.counts_E.tolist())

    def _multiplies_groups(self, x: Tensor) -> bool:
        """Whether our kernel multiplies groups of rows in fp8 here: on Hopper.

        It wants tensor cores for e4m3 and tensor descriptors, there from capability 9.0 on. But its tiles need
        more shared memory than 12.0 has, and 10.0 is not measured: hence 9 alone.
        """
        if self.gate_up.dtype != torch.float8_e4m3fn or x.dtype != torch.bfloat16 or not (x.is_cuda and on_gpu(x)):
            return False
        whole = all(size % 16 == 0 for name in ("gate_up", "down") for size in getattr(self, name).shape[1:])
        return whole and torch.cuda.get_device_capability(x.device)[0] == 9

    def in_groups(self, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        """All experts in two products of groups of rows, without asking the device for the counts; activations are
        coded row by row.
        """
        from kaiyuan.model.kernels import fp8, matrices, swiglu

        ends_E = dispatch.ends_E.to(torch.int32)
        scales = [self.get_buffer(f"{name}_scale").squeeze(-1) for name in ("gate_up", "down")]
        rows = fp8.rows_of(x_TD.contiguous()).gather(dispatch.token_N, ends_E[-1:])
        hidden_NH = matrices.coded_product(rows, self.gate_up, scales[0], ends_E, x_TD.dtype)
        out_ND = matrices.coded_product(swiglu.forward_coded(hidden_NH)[1], self.down, scales[1], ends_E, x_TD.dtype)
        return out_ND if dispatch.kept_N is None else torch.where(dispatch.kept_N[:, None], out_ND, 0)

    def product(self, which: str, expert: int, x_ND: Tensor) -> Tensor:
        return coded_product(x_ND, getattr(self, which)[expert], getattr(self, f"{which}_scale")[expert])


def quantize_model(model: Transformer, scheme: Scheme) -> Transformer:
    """Code the matrices of ``model`` in place, one layer after the other; returns it. It cannot be trained any more.

    A matrix whose shape ``scheme`` cannot code is left as it is.
    """
    for parent in list(model.layers.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Linear) and fits(child.weight.shape, scheme):
                setattr(parent, name, QuantizedLinear(child, scheme))
            elif isinstance(child, Experts) and fits(child.gate_up.shape, scheme) and fits(child.down.shape, scheme):
                setattr(parent, name, QuantizedExperts(child, scheme))
    return model
