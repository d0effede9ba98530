"""One decoder block on few rows by the kernels of decoding: what ``Block.forward`` computes, for one token of each row.

Shapes: N rows, D hidden size, H query heads, G key/value heads, d head dimension, P parts of the layer's result.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kaiyuan.inference.kernels import feed_forward, paged_attention, products
from kaiyuan.inference.kernels.feed_forward import Choice
from kaiyuan.inference.kernels.paged_attention import Rows, Store
from kaiyuan.inference.kernels.products import Matrix, Tile
from kaiyuan.inference.paged_cache import PagedCache
from kaiyuan.model.attention import Attention
from kaiyuan.model.linear import Linear
from kaiyuan.model.quantization import QuantizedExperts, QuantizedLinear
from kaiyuan.model.transformer import Block

_FEW_ROWS = 32
"""With more, and without coded weights, the library's products are quicker (docs/lab-notes.md)."""


class How(NamedTuple):
    """``tile`` and ``splits`` fix the order of all sums, so that a row's result does not depend on the others."""

    frequencies: Tensor
    tile: Tile | None = None
    splits: int | None = None


class Unsupported(Exception):
    """These kernels cannot compute this model; the message says why."""


def matrix_of(module: nn.Module) -> Matrix:
    """The weight of a linear layer as the kernels take it."""
    if isinstance(module, Linear):
        return Matrix(module.weight.detach())
    if isinstance(module, QuantizedLinear):
        return Matrix(module.codes, module.scale)
    raise Unsupported(f"weights of a {type(module).__name__} in this form")


def joined(modules: Many[nn.Module]) -> Matrix:
    """The weights of several layers one under the other; the layers' own become views of it: nothing is kept twice."""
    if len(modules) == 1:
        return matrix_of(modules[0])
    parts = [matrix_of(module) for module in modules]
    if len({(part.weight.dtype, part.scale is None) for part in parts}) > 1:
        raise Unsupported("queries, keys and values in different forms")
    scales = [part.scale for part in parts if part.scale is not None]
    whole = Matrix(torch.cat([part.weight for part in parts]), torch.cat(scales) if scales else None)
    start = 0
    for module, part in zip(modules, parts, strict=True):
        rows = slice(start, start := start + len(part.weight))
        if isinstance(module, QuantizedLinear):
            assert whole.scale is not None
            module.codes, module.scale = whole.weight[rows], whole.scale[rows]
        elif isinstance(module, Linear):  # the same parameter as before: an optimiser may hold it
            module.weight.data = whole.weight[rows]
    return whole


class DecodeLayer:
    """The weights of ``block``, and its keys and values in ``cache``."""

    def __init__(self, block: Block, cache: PagedCache) -> None:
        attention, moe = block.attention, block.moe
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.attention_gain, self.moe_gain = block.attention_norm.weight, block.moe_norm.weight
        self.eps = block.attention_norm.eps
        projections = [attention.q_proj, *([attention.k_proj, attention.v_proj] if attention.owns_kv else [])]
        self.qkv, self.o = joined(projections), matrix_of(attention.o_proj)
        self.query_gain = _query_gain(attention)
        keys, values = cache.keys[attention.producer], cache.values[attention.producer]
        self.keys, self.values = Store(keys.data, keys.scale), Store(values.data, values.scale)
        self.router, self.top_k, self.renormalize = moe.router.weight, moe.top_k, moe.renormalize
        if self.router.dtype != torch.float32:
            raise Unsupported(f"a router in {self.router.dtype}")
        self.shared_up = None if moe.shared is None else matrix_of(moe.shared.gate_up)
        self.shared_down = None if moe.shared is None else matrix_of(moe.shared.down)
        experts = moe.experts
        scales: list[Tensor | None] = [None, None]
        if isinstance(experts, QuantizedExperts):
            scales = [experts.get_buffer(f"{name}_scale") for name in ("gate_up", "down")]
        if not hasattr(experts, "gate_up"):
            raise Unsupported(f"experts as {type(experts).__name__} in this form")
        self.up, self.down = Matrix(experts.gate_up.detach(), scales[0]), Matrix(experts.down.detach(), scales[1])

    def __call__(self, x_ND: Tensor, parts_PND: Tensor | None, rows: Rows, how: How) -> tuple[Tensor, Tensor]:
        """``x`` and the ``parts`` that are still to be added to it; returns the same after this layer."""
        x_ND = self._attended(x_ND, parts_PND, rows, how)
        return x_ND, self._computed(x_ND, how)

    def _attended(self, x_ND: Tensor, parts_PND: Tensor | None, rows: Rows, how: How) -> Tensor:
        summed_ND = x_ND if parts_PND is None else torch.empty_like(x_ND)
        normed_ND = products.norm(
            x_ND, self.attention_gain, self.eps, torch.empty_like(x_ND), parts_PNI=parts_PND, out_NI=summed_ND
        )
        qkv_NW = product(normed_ND, self.qkv, how)
        query_NHd = x_ND.new_empty(len(x_ND), self.heads, self.head_dim)
        paged_attention.turn_and_keep(
            qkv_NW, query_NHd, self.keys, self.values, rows, how.frequencies, self.query_gain, self.eps
        )
        out_NHd = paged_attention.paged_attention(
            query_NHd, self.keys, self.values, rows, torch.empty_like(query_NHd), splits=how.splits
        )
        return product(out_NHd.flatten(1), self.o, how, residual=summed_ND)

    def _computed(self, x_ND: Tensor, how: How) -> Tensor:
        count = len(x_ND)
        logits_NE = torch.empty(count, len(self.router), dtype=torch.float32, device=x_ND.device)
        normed_ND = torch.empty_like(x_ND)
        feed_forward.route(x_ND, self.moe_gain, self.eps, self.router, normed_ND, logits_NE)
        choice = Choice(logits_NE, self.top_k, self.renormalize)
        shared_NS = None if self.shared_down is None else x_ND.new_empty(count, self.shared_down.inputs)
        routed_KNF = x_ND.new_empty(self.top_k, count, self.down.inputs)
        feed_forward.gate_up(normed_ND, self.shared_up, self.up, choice, shared_NS, routed_KNF, tile=how.tile)
        parts = self.top_k + (shared_NS is not None)
        parts_PND = torch.empty(parts, *x_ND.shape, dtype=torch.float32, device=x_ND.device)
        return feed_forward.down(
            shared_NS, self.shared_down, routed_KNF, self.down, choice, parts_PND, tile=how.tile
        )  # fmt: skip


def product(x_NI: Tensor, matrix: Matrix, how: How, residual: Tensor | None = None) -> Tensor:
    """``x @ weight.T + residual``."""
    if len(x_NI) > _FEW_ROWS and matrix.scale is None and how.tile is None:
        weight = matrix.weight.t()
        return torch.mm(x_NI, weight) if residual is None else torch.addmm(residual, x_NI, weight)
    out_NO = x_NI.new_empty(len(x_NI), len(matrix.weight))
    return products.linear(x_NI, matrix, out_NO, residual=residual, tile=how.tile)


def _query_gain(attention: Attention) -> Tensor | None:
    if attention.q_norm is None or attention.k_norm is None:
        return None
    return (attention.q_norm.weight * attention.k_norm.weight).detach()
