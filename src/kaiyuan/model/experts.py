"""SwiGLU feed-forward layers: the shared expert, and the specialised experts computed group by group.

Tokens are sorted by expert, so every expert multiplies one contiguous block. On a GPU one grouped GEMM runs all
experts, with one Triton kernel between each two products (``kaiyuan.model.kernels.feed_forward``). On a CPU, where a
grouped GEMM is no faster, a loop over experts does, as an autograd function of its own: automatic differentiation of
``weight[e]`` would fill a gradient as large as *all* experts for each expert (measured: 3 to 10 times the cost of the
whole layer). Experts so small that calling their products costs more than computing them are padded to equally many
rows and computed as one batch.

Shapes: T tokens, D hidden size, F width of an expert, E experts, N assignments, M assignments that are computed
(sorted), C rows of the fullest expert.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.fused import fused, is_gpu, on_gpu
from kaiyuan.model.linear import Linear, cast, codes, holder
from kaiyuan.model.native import operations
from kaiyuan.model.native.library import native
from kaiyuan.model.routing import Routing

if TYPE_CHECKING:
    from kaiyuan.model.kernels.dispatch import Order
    from kaiyuan.model.kernels.feed_forward import BothCodes, Places
    from kaiyuan.model.kernels.fp8 import Rows


class _SwiGLU(torch.autograd.Function):
    """``silu(gate) * up`` for ``gate_up`` (..., 2F), keeping only ``gate_up`` for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return swiglu_forward(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return swiglu_backward(grad, gate_up)[0]


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` without anything for a backward pass."""
    if native(gate_up):
        return operations.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient for ``gate_up`` (..., 2F) and the recomputed activation (..., F), given that of the activation."""
    if native(gate_up):
        return operations.swiglu_backward(grad, gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    grad_gate_up = torch.empty_like(gate_up)
    grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
    silu = F.silu(gate)
    torch.mul(grad, silu, out=grad_up)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
    return grad_gate_up, silu.mul_(up)


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up``; the gate is the first half of the last dimension."""
    return _SwiGLU.apply(gate_up) if torch.is_grad_enabled() else swiglu_forward(gate_up)


class _FeedForward(nn.Module):
    recompute = False
    """Keep nothing but the input for the backward pass (on a GPU)."""
    fp8 = False
    """Multiply in fp8, forwards and to the input (on a GPU); the weights' gradients are products in bfloat16."""

    def _weights(self, x: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, BothCodes]:
        """Both as products of ``x`` take them; with codes they are there for their gradients alone."""
        if not self.fp8:
            return cast(gate_up, x.dtype), cast(down, x.dtype), None
        both = codes(gate_up, x.dtype), codes(down, x.dtype)
        return holder(gate_up).to(x.dtype), holder(down).to(x.dtype), both

    def code_input(self, x_TD: Tensor) -> Rows | None:
        """``x`` in fp8 if products take it so: made once where several layers have the same input."""
        if not (self.fp8 and fused(x_TD)):
            return None
        from kaiyuan.model.kernels.fp8 import rows_of

        return rows_of(x_TD.contiguous())


class SharedExpert(_FeedForward):
    """The expert that every token passes through. (..., D) to (..., D); ``coded`` may be ``code_input(x)``."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * width)
        self.down = Linear(width, hidden_size)

    def forward(self, x: Tensor, coded: Rows | None = None) -> Tensor:
        if fused(x) and isinstance(self.gate_up, Linear) and isinstance(self.down, Linear):
            from kaiyuan.model.kernels.feed_forward import dense

            gate_up, down, in_fp8 = self._weights(x, self.gate_up.weight, self.down.weight)
            return dense(x, gate_up, down, self.recompute, in_fp8, coded)
        return self.down(swiglu(self.gate_up(x)))


class Dispatch:
    """The order in which assignments are computed: sorted by expert, dropped ones last. Nothing waits for the device.

    ``order_N`` is each row's assignment in that order, ``token_N`` its token and ``weight_N`` its combine weight;
    ``counts_E`` is the number of each expert, ``ends_E`` where its rows end; ``kept_N`` marks the rows that an expert
    computes, None if all are. On a GPU kernels count instead of sorting (``kaiyuan.model.kernels.dispatch``).
    """

    def __init__(self, routing: Routing, experts: int, top_k: int) -> None:
        self.routing, self.top_k = routing, top_k
        self._sorted = _counted(routing.expert_N, experts)
        if self._sorted is not None:
            self.order_N, self.counts_E, self.ends_E = self._sorted.order_N, self._sorted.counts_E, self._sorted.ends_E
        else:
            key_N = routing.expert_N.to(torch.int16) if is_gpu(routing.expert_N) else routing.expert_N  # few digits
            sorted_N, self.order_N = key_N.sort(stable=True)
            first_E = torch.arange(experts + 1, dtype=key_N.dtype, device=key_N.device)
            bounds = torch.searchsorted(sorted_N, first_E)
            self.ends_E, self.counts_E = bounds[1:], bounds.diff()
        self.token_N = self.order_N // top_k if top_k > 1 else self.order_N

    @cached_property
    def kept_N(self) -> Tensor | None:
        return None if self.routing.complete else self._rows() < self.ends_E[-1]

    @cached_property
    def weight_N(self) -> Tensor:
        return self.routing.weight_N[self.order_N]

    def _rows(self) -> Tensor:
        return torch.arange(len(self.order_N), device=self.order_N.device)

    def places(self) -> Places:
        """The same for the kernels, with each assignment's row."""
        from kaiyuan.model.kernels.feed_forward import Places

        if self._sorted is not None:
            return Places(self.token_N, self.order_N, self._sorted.place_N, self._sorted.offsets_E, self.top_k)
        place_N = torch.empty_like(self.order_N).scatter_(0, self.order_N, self._rows())
        return Places(self.token_N, self.order_N, place_N, self.ends_E.to(torch.int32), self.top_k)


def _counted(expert_N: Tensor, experts: int) -> Order | None:
    """The order of assignments by the kernels that count, where those run."""
    if not on_gpu(expert_N) or not len(expert_N):
        return None
    from kaiyuan.model.kernels import dispatch

    return dispatch.by_expert(expert_N, experts) if experts <= dispatch.MOST_EXPERTS else None


class _ExpertLoop(torch.autograd.Function):
    """All experts on rows sorted by expert, (N, D) to (N, D); rows beyond the counts give zero.

    ``counts`` has the rows of each, and products loop over experts; one number is the rows of every expert, and then
    products are one batch. What is done to single elements is done to all rows at once, and each expert's gradient is
    computed in its place among those of all.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gate_up_EHD: Tensor, down_EDF: Tensor, counts: list[int] | int) -> Tensor:
        whole, rows = len(x_ND), len(x_ND) if isinstance(counts, int) else sum(counts)
        hidden_NH = x_ND.new_empty(rows, gate_up_EHD.shape[1])
        _products(_by_expert(x_ND, counts), gate_up_EHD.mT, _by_expert(hidden_NH, counts))
        out_ND = torch.empty_like(x_ND)
        out_ND[rows:] = 0
        _products(_by_expert(swiglu_forward(hidden_NH), counts), down_EDF.mT, _by_expert(out_ND, counts))
        ctx.save_for_backward(x_ND[:rows], hidden_NH, gate_up_EHD, down_EDF)
        ctx.counts, ctx.whole = counts, whole
        return out_ND

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, hidden_NH, gate_up_EHD, down_EDF = ctx.saved_tensors
        counts, rows = ctx.counts, len(x_ND)
        grad = _by_expert(grad_ND[:rows].contiguous(), counts)
        grad_act_NF = x_ND.new_empty(rows, down_EDF.shape[2])
        _products(grad, down_EDF, _by_expert(grad_act_NF, counts))
        grad_hidden_NH, act_NF = swiglu_backward(grad_act_NF, hidden_NH)
        grad_hidden = _by_expert(grad_hidden_NH, counts)
        grad_x = x_ND.new_empty(ctx.whole, x_ND.shape[1])
        grad_x[rows:] = 0
        _products(grad_hidden, gate_up_EHD, _by_expert(grad_x, counts))
        grad_down, grad_gate_up = torch.empty_like(down_EDF), torch.empty_like(gate_up_EHD)
        _products(_transposed(grad), _by_expert(act_NF, counts), grad_down)
        _products(_transposed(grad_hidden), _by_expert(x_ND, counts), grad_gate_up)
        return grad_x, grad_gate_up, grad_down, None


Blocks: TypeAlias = Tensor | tuple[Tensor, ...]
"""A matrix for every expert; a (E, C, D) tensor where a batch may take the loop's place."""


def _by_expert(x_ND: Tensor, counts: list[int] | int) -> Blocks:
    return x_ND.unflatten(0, (-1, counts)) if isinstance(counts, int) else x_ND[: sum(counts)].split(counts)


def _transposed(blocks: Blocks) -> Blocks:
    return blocks.mT if isinstance(blocks, Tensor) else tuple(block.t() for block in blocks)


def _products(lefts: Blocks, rights: Blocks, outs: Blocks) -> None:
    """``out = left @ right`` for every expert; a product over no rows is zero."""
    if isinstance(lefts, Tensor) and isinstance(rights, Tensor) and isinstance(outs, Tensor):
        torch.bmm(lefts, rights, out=outs)
        return
    for left, right, out in zip(lefts, rights, outs, strict=True):
        if left.numel():
            torch.mm(left, right, out=out)
        else:
            out.zero_()


def _padded_places(counts: list[int]) -> Tensor:
    """Where each of the sorted rows stands if every expert has room for the fullest: int64 (M,)."""
    counts_E = torch.tensor(counts)
    gaps_E = (torch.arange(len(counts)) * max(counts)) - (counts_E.cumsum(0) - counts_E)
    return torch.arange(sum(counts)) + gaps_E.repeat_interleave(counts_E)


def grouped_swiglu(x_ND: Tensor, gate_up_EHD: Tensor, down_EDF: Tensor, ends_E: Tensor) -> Tensor:
    """SwiGLU of every expert on its rows: (N, D) to (N, D), rows sorted by expert, up to ``ends_E``."""
    offsets_E = ends_E.to(torch.int32)
    hidden_NH = F.grouped_mm(x_ND, gate_up_EHD.transpose(1, 2), offs=offsets_E)
    return F.grouped_mm(swiglu(hidden_NH), down_EDF.transpose(1, 2), offs=offsets_E)


def _takes_groups(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 or not is_gpu(x)


class Experts(_FeedForward):
    """The specialised experts of one layer, stacked: ``gate_up`` (E, 2F, D), gate first, and ``down`` (E, D, F)."""

    training_kernels = True
    """Whether the kernels of a training step can read the weights: not where they are kept in forms for inference."""

    def __init__(self, num_experts: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * width, hidden_size))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_size, width))

    def forward(
        self, x_TD: Tensor, dispatch: Dispatch, base_TD: Tensor | None = None, residual_TD: Tensor | None = None,
        coded: Rows | None = None,
    ) -> Tensor:  # fmt: skip
        """``base_TD`` (0 without it) plus the weighted sum over each token's experts, (T, D); a token that no expert
        computes gets nothing. ``residual_TD`` is added to that if it is given: by kernels in the same pass. ``coded``
        may be ``code_input(x)``.
        """
        if self.training_kernels and fused(x_TD) and _takes_groups(x_TD):
            from kaiyuan.model.kernels.feed_forward import grouped

            gate_up, down, in_fp8 = self._weights(x_TD, self.gate_up, self.down)
            weight_N, places = dispatch.routing.weight_N, dispatch.places()
            return grouped(
                x_TD, base_TD, gate_up, down, weight_N=weight_N, places=places, recompute=self.recompute, codes=in_fp8,
                coded=coded, residual_TD=residual_TD,
            )  # fmt: skip
        out_TD = self.combined(self.computed(x_TD, dispatch), x_TD, dispatch, base_TD)
        return out_TD if residual_TD is None else residual_TD + out_TD

    def computed(self, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        """What its expert makes of each assignment's token, (N, D) in the order of ``dispatch``, without the kernels of
        a training step. Forms for inference override it.
        """
        x_ND = x_TD[dispatch.token_N]
        if is_gpu(x_TD) and _takes_groups(x_TD):
            return self.grouped(x_ND, dispatch)
        counts = dispatch.counts_E.tolist()
        if not torch.is_grad_enabled():
            return self.directly(x_ND, counts)
        return self.batched(x_ND, counts) if self._pays_to_pad(counts) else self.looped(x_ND, counts)

    @staticmethod
    def combined(out_ND: Tensor, x_TD: Tensor, dispatch: Dispatch, base_TD: Tensor | None = None) -> Tensor:
        """``base_TD`` plus each token's sum of its experts' outputs, weighted."""
        weighted_ND = out_ND * dispatch.weight_N[:, None].to(out_ND.dtype)
        return (torch.zeros_like(x_TD) if base_TD is None else base_TD).index_add(0, dispatch.token_N, weighted_ND)

    def directly(self, x_ND: Tensor, counts: list[int]) -> Tensor:
        """One expert after the other, those without rows left out; nothing is kept for gradients."""
        parts, start = [], 0
        for expert, count in enumerate(counts):
            if count:
                hidden = self.product("gate_up", expert, x_ND[start : start + count])
                parts.append(self.product("down", expert, swiglu_forward(hidden)))
                start += count
        if start < len(x_ND):
            parts.append(x_ND.new_zeros(len(x_ND) - start, x_ND.shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def product(self, which: str, expert: int, x_ND: Tensor) -> Tensor:
        """``x @ weight.T`` with the matrix ``which`` ("gate_up" or "down") of one expert."""
        return F.linear(x_ND, getattr(self, which)[expert].to(x_ND.dtype))

    def looped(self, x_ND: Tensor, counts: list[int] | int) -> Tensor:
        """One expert after the other; as one batch if ``counts`` is the rows of each."""
        return _ExpertLoop.apply(x_ND, cast(self.gate_up, x_ND.dtype), cast(self.down, x_ND.dtype), counts)

    def batched(self, x_ND: Tensor, counts: list[int]) -> Tensor:
        """All experts as one batch, each padded with zeros to the rows of the fullest."""
        place_M = _padded_places(counts).to(x_ND.device)
        room = max(1, *counts)
        padded = x_ND.new_zeros(len(counts) * room, x_ND.shape[1]).index_copy(0, place_M, x_ND[: len(place_M)])
        out_MD = self.looped(padded, room)[place_M]
        return F.pad(out_MD, (0, 0, 0, len(x_ND) - len(place_M))) if len(place_M) < len(x_ND) else out_MD

    def _pays_to_pad(self, counts: list[int]) -> bool:
        """Whether a batch with padding beats the loop: small matrices, loads not too different (docs/lab-notes.md)."""
        return 0 < max(counts) * len(counts) <= 1.5 * sum(counts) and self.gate_up[0].numel() <= 2**17

    def grouped(self, x_ND: Tensor, dispatch: Dispatch) -> Tensor:
        """All experts in two grouped GEMMs, without asking the device for the counts.

        What a grouped GEMM leaves in rows beyond its groups is undefined, forwards and backwards, so those rows are
        cut off with ``torch.where`` on both sides (0 times undefined may be NaN). Sizes must be multiples of 8 in
        bfloat16.
        """
        if dispatch.kept_N is not None:
            x_ND = torch.where(dispatch.kept_N[:, None], x_ND, 0)
        out_ND = grouped_swiglu(x_ND, cast(self.gate_up, x_ND.dtype), cast(self.down, x_ND.dtype), dispatch.ends_E)
        return out_ND if dispatch.kept_N is None else torch.where(dispatch.kept_N[:, None], out_ND, 0)


def experts_reference(x_TD: Tensor, routing: Routing, top_k: int, gate_up_EHD: Tensor, down_EDF: Tensor) -> Tensor:
    """The same, one assignment at a time: slow, obvious, and what the tests compare with."""
    out_TD = torch.zeros_like(x_TD)
    for place, expert in enumerate(routing.expert_N.tolist()):
        if expert < len(gate_up_EHD):
            gate, up = (gate_up_EHD[expert] @ x_TD[place // top_k]).chunk(2)
            out_TD[place // top_k] += routing.weight_N[place] * (down_EDF[expert] @ (F.silu(gate) * up))
    return out_TD
