"""Keys and values of all sequences in pages, one store per *producing* layer.

What is kept of a key is what the layers of a pair share: normalised, rotated, without any layer's gain (that is folded
into the queries). So a token takes ``2 * producers * kv_heads * head_dim`` numbers, half of what a cache per layer
takes. A normalised key has a root mean square of 1, which is why fp8 needs no scale and int8 loses so little.

Shapes: N new tokens of all sequences, H query heads, G key/value heads, S tokens of one sequence, d head dimension, P
pages, b tokens of a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.dtypes import COMPUTE, FP8_MAX, choose

KVDtype = Literal["auto", "float32", "bfloat16", "float16", "fp8", "int8"]
_STORED = COMPUTE | {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
_MASK_ELEMENTS = 2**24
"""Largest mask of a chunk of a prompt: at 256K tokens a chunk's mask would outgrow all the rest."""


def storage_dtype(name: KVDtype, compute: torch.dtype) -> torch.dtype:
    """The dtype that keys and values are kept in: that of the computation for "auto"."""
    return choose("kv_dtype", name, {"auto": compute} | _STORED)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one token in all producing layers; int8 includes its scales, one float16 a head for keys and values."""
    producers = sum(layer.owns_kv for layer in config.layers())
    scale = 2 if dtype == torch.int8 else 0
    return 2 * producers * config.num_kv_heads * (config.head_dim * dtype.itemsize + scale)


@dataclass
class Span:
    """The new tokens of one sequence in a step: rows ``start`` to ``end`` of the batch, at the end of ``length``."""

    start: int
    end: int
    length: int
    """Tokens of the sequence up to and with the new ones."""
    pages: list[int]

    @cached_property
    def run(self) -> bool:
        """Whether its pages follow each other; asked by every layer, found out once."""
        first = self.pages[0]
        return all(page == first + place for place, page in enumerate(self.pages))


class _Store:
    """Keys or values of one producing layer: (P * b, G, d), and for int8 a scale for every token and head."""

    def __init__(self, slots: int, heads: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.data = torch.empty(slots, heads, size, dtype=dtype, device=device)
        self.scale = torch.empty(slots, heads, 1, dtype=torch.float16, device=device) if dtype == torch.int8 else None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def write(self, slots_N: Tensor, x_NGd: Tensor) -> None:
        if self.scale is not None:
            scale = (x_NGd.float().abs().amax(-1, keepdim=True) / 127).clamp(min=2**-14).half()
            self.scale[slots_N] = scale
            self.data[slots_N] = (x_NGd.float() / scale.float()).round_().clamp_(-127, 127).to(torch.int8)
        elif self.data.dtype == torch.float8_e4m3fn:
            codes = x_NGd.float().clamp(-FP8_MAX, FP8_MAX).to(self.data.dtype)
            self.data.view(torch.uint8)[slots_N] = codes.view(torch.uint8)
        else:
            self.data[slots_N] = x_NGd.to(self.data.dtype)

    def read(self, span: Span, page_size: int, dtype: torch.dtype) -> Tensor:
        """(S, G, d) in ``dtype``: a view where the pages follow each other and need no conversion."""
        data = _pages(self.data, span, page_size)
        if self.scale is not None:
            return data.to(dtype) * _pages(self.scale, span, page_size).to(dtype)
        return data.to(dtype)


def _pages(store: Tensor, span: Span, size: int) -> Tensor:
    if span.run:
        return store[span.pages[0] * size :][: span.length]
    index = torch.tensor(span.pages, device=store.device)
    raw = store.view(torch.uint8) if store.dtype == torch.float8_e4m3fn else store
    return raw.unflatten(0, (-1, size))[index].flatten(0, 1).view(store.dtype)[: span.length]


class PagedCache:
    """``pages`` pages of ``page_size`` tokens. Bytes really allocated: ``nbytes``."""

    def __init__(
        self, config: ModelConfig, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_size, self.dtype = page_size, dtype
        shape = (pages * page_size, config.num_kv_heads, config.head_dim)
        producers = [layer.index for layer in config.layers() if layer.owns_kv]
        self.keys = {index: _Store(*shape, dtype, device) for index in producers}
        self.values = {index: _Store(*shape, dtype, device) for index in producers}
        self._spans: list[Span] = []
        self._slots_N = torch.empty(0, dtype=torch.int64)

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in (*self.keys.values(), *self.values.values()))

    def begin(self, spans: list[Span], device: torch.device) -> Tensor:
        """Prepare for a forward pass over the new tokens of ``spans``; returns their positions (1, N)."""
        size = self.page_size
        slots: list[int] = []
        positions: list[int] = []
        for span in spans:
            places = range(span.length - (span.end - span.start), span.length)
            positions += places
            slots += [span.pages[place // size] * size + place % size for place in places]
        self._spans = spans
        self._slots_N = torch.tensor(slots, device=device)
        return torch.tensor([positions], device=device)

    def extend(self, producer: int, k_BGNd: Tensor, v_BGNd: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new keys and values (1, G, N, d) of one layer, which come back as they are."""
        self.keys[producer].write(self._slots_N, k_BGNd[0].transpose(0, 1))
        self.values[producer].write(self._slots_N, v_BGNd[0].transpose(0, 1))
        return k_BGNd, v_BGNd

    def attend(self, producer: int, q_BHNd: Tensor) -> Tensor:
        """Attention of every new token over its own sequence: (1, H, N, d)."""
        out_BHNd = torch.empty_like(q_BHNd)
        for span in self._spans:
            q_BHTd = q_BHNd[:, :, span.start : span.end]
            k_SGd = self.keys[producer].read(span, self.page_size, q_BHNd.dtype)
            v_SGd = self.values[producer].read(span, self.page_size, q_BHNd.dtype)
            out_BHNd[:, :, span.start : span.end] = _attend(q_BHTd, k_SGd, v_SGd)
        return out_BHNd


def _attend(q_BHTd: Tensor, k_SGd: Tensor, v_SGd: Tensor) -> Tensor:
    """The last T of S tokens look at all of them up to themselves: (1, H, T, d)."""
    new, length = q_BHTd.shape[2], len(k_SGd)
    k_BGSd, v_BGSd = k_SGd.transpose(0, 1)[None], v_SGd.transpose(0, 1)[None]
    if new == 1:  # the heads that share keys as so many queries: on a CPU 3 to 10 times as fast as enable_gqa
        q_BGRd = q_BHTd.reshape(1, k_BGSd.shape[1], -1, q_BHTd.shape[3])
        return _sdpa(q_BGRd, k_BGSd, v_BGSd, None).reshape(q_BHTd.shape)
    if new == length:
        return _sdpa(q_BHTd, k_BGSd, v_BGSd, None, causal=True)
    if q_BHTd.is_cuda and q_BHTd.dtype != torch.float32:  # flash attention knows this shape; a mask would keep it out
        return _sdpa(q_BHTd, k_BGSd, v_BGSd, causal_lower_right(new, length))
    rows = max(1, _MASK_ELEMENTS // length)
    parts = []
    for start in range(0, new, rows):
        end = min(start + rows, new)
        seen = length - new + end
        mask = torch.ones(end - start, seen, dtype=torch.bool, device=q_BHTd.device).tril(seen - (end - start))
        parts.append(_sdpa(q_BHTd[:, :, start:end], k_BGSd[:, :, :seen], v_BGSd[:, :, :seen], mask))
    return torch.cat(parts, dim=2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
