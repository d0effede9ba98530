"""What is handed to the C++ library: the mirror of ``source/model.hpp`` and ``source/matrix.hpp``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_void_p
from typing import Any

import torch
from torch import Tensor

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.float16: 3, torch.float8_e4m3fn: 4}
INT4 = 5
PAGE = 32
"""Tokens of a page, as the library has it."""


class Matrix(Structure):
    _fields_ = [
        ("data", c_void_p), ("scale", c_void_p), ("sums", c_void_p),
        ("format", c_int32), ("outs", c_int32), ("ins", c_int32), ("panels", c_int32),
    ]  # fmt: skip


class Store(Structure):
    _fields_ = [("data", c_void_p), ("scale", c_void_p)]


class Layer(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("attention_gain", "query_gain", "moe_gain", "router")),
        *((name, Matrix) for name in ("q", "k", "v", "o", "shared_up", "shared_down")),
        *((name, POINTER(Matrix)) for name in ("experts_up", "experts_down")),
        *((name, Store) for name in ("keys", "values")),
        *((name, c_int32) for name in ("owns_kv", "experts", "top_k", "renormalize", "expert_size", "shared_size")),
    ]


class Model(Structure):
    _fields_ = [
        ("layers", POINTER(Layer)), ("frequencies", c_void_p), ("final_gain", c_void_p), ("embedding", c_void_p),
        ("head", Matrix),
        *((name, c_int32) for name in ("count", "hidden", "heads", "kv_heads", "head_dim", "vocabulary")),
        ("cache_format", c_int32), ("embedding_format", c_int32), ("eps", c_float),
    ]  # fmt: skip


class Span(Structure):
    _fields_ = [("start", c_int32), ("end", c_int32), ("length", c_int32), ("pages", c_void_p)]


class Step(Structure):
    _fields_ = [
        ("spans", POINTER(Span)),
        *((name, c_void_p) for name in ("ids", "wanted", "logits", "chosen", "logprobs")),
        *((name, c_int32) for name in ("span_count", "rows", "wanted_count", "burst")),
    ]


def declare(library: Any) -> None:
    """Tell ``library``'s functions what they take."""
    library.kaiyuan_open.argtypes, library.kaiyuan_open.restype = [POINTER(Model)], c_void_p
    library.kaiyuan_close.argtypes, library.kaiyuan_close.restype = [c_void_p], None
    library.kaiyuan_step.argtypes, library.kaiyuan_step.restype = [c_void_p, POINTER(Step), c_int32], None
    library.kaiyuan_product.argtypes = [POINTER(Matrix), c_void_p, c_void_p, c_int32, c_int32]
    library.kaiyuan_product.restype = None


def address(tensor: Tensor | None) -> int | None:
    """Where the numbers of a tensor lie; None for none."""
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


def array(kind: type[ctypes.Structure], items: list[Any]) -> Any:
    return (kind * len(items))(*items)
