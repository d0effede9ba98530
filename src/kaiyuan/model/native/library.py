"""The library of a training step's operations, and for which tensors it serves."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from ctypes import Structure, c_float, c_int, c_long, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn

from kaiyuan.model.fused import is_gpu, kernels_wanted
from kaiyuan.native.build import Unavailable, build

_SOURCE = Path(__file__).parent / "source" / "training.cpp"
_DTYPES = (torch.float32, torch.bfloat16)


class AdamW(Structure):
    """The numbers of one update."""

    _fields_ = [(name, c_float) for name in
                ("factor", "lr", "beta1", "beta2", "eps", "decay", "correction1", "correction2")]  # fmt: skip


_P, _N = c_void_p, c_long
_FUNCTIONS = {
    "kaiyuan_threads": [_P],
    "kaiyuan_residual_norm": [_P] * 6 + [_N, _N, c_float, c_int, c_int],
    "kaiyuan_residual_norm_backward": [_P] * 7 + [_N, _N, _N, c_int, c_int],
    "kaiyuan_rope_norm": [_P] * 5 + [_N] * 4 + [c_float, c_int, c_int],
    "kaiyuan_rope_norm_backward": [_P] * 7 + [_N] * 4 + [c_float, _N, c_int, c_int],
    "kaiyuan_swiglu": [_P, _P, _N, _N, c_int, c_int],
    "kaiyuan_swiglu_backward": [_P] * 4 + [_N, _N, c_int, c_int],
    "kaiyuan_cross_entropy": [_P] * 4 + [_N, _N, c_int, c_int, c_int],
    "kaiyuan_squares": [_P, _P, _N, c_int, c_int],
    "kaiyuan_adamw": [_P] * 5 + [_N, AdamW, c_int, c_int, c_int],
}


@functools.cache
def library(flags: tuple[str, ...] = ("-march=native",)) -> ctypes.CDLL:
    """The loaded library. Raises ``Unavailable``."""
    loaded = build(_SOURCE, flags)
    for name, arguments in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    with contextlib.suppress(AttributeError):  # PyTorch has loaded libgomp for all; without it one thread computes
        loaded.kaiyuan_threads(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, c_void_p))
    return loaded


@functools.cache
def available() -> bool:
    """Whether there is a library; builds it if need be."""
    try:
        library()
    except Unavailable:
        return False
    return True


def native(x: Tensor) -> bool:
    """Whether the library computes what is done to ``x``: a plain tensor of a CPU, in float32 or bfloat16."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and not is_gpu(x)
        and x.dtype in _DTYPES
        and kernels_wanted()
        and available()
    )
