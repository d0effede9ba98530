"""Losses and metrics of a layer's routing: two kernels forwards, one backwards.

The plain form: ``kaiyuan.model.routing.router_stats``. Every program leaves its sums; a last one adds them up, so the
order of summation is fixed.

Shapes: T tokens, E experts, K choices a token, P programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_EXPERTS = 256
_TILE = 2048
"""Logits that a program looks at at once."""
_PROGRAMS = 256
_SUMS = tl.constexpr(4)
"""Beside those of experts: entropy, squared log-sum-exp, dropped, recycled."""


@triton.jit
def _tile(x, t, e, tokens, experts, other):
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    return tl.load(x + t[:, None] * experts + e[None, :], inside, other)


@triton.jit
def _log_sum_exp(logit):
    most = tl.max(logit, 1)
    return most + tl.log(tl.sum(tl.exp(logit - most[:, None]), 1))


@triton.jit
def _router_stats_sums(
    logits, probs, choice, expert, recycled, sums, chances, chosen, load, tokens, experts,
    TOP_K: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    program, e = tl.program_id(0), tl.arange(0, BLOCK_E)
    chance = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    wanted, given = tl.zeros((BLOCK_T, BLOCK_E), tl.int32), tl.zeros((BLOCK_T, BLOCK_E), tl.int32)
    entropy, square = tl.zeros((BLOCK_T,), tl.float32), tl.zeros((BLOCK_T,), tl.float32)
    dropped, moved = tl.zeros((BLOCK_T,), tl.int32), tl.zeros((BLOCK_T,), tl.int32)
    for start in range(program * BLOCK_T, tokens, PROGRAMS * BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        prob = _tile(probs, t, e, tokens, experts, 0.0)
        chance += prob
        entropy -= tl.sum(prob * tl.log(tl.maximum(prob, 1e-30)), 1)
        # Logits of 0 in place of missing tokens; minus infinity in place of missing experts.
        logit = tl.where((e < experts)[None, :], _tile(logits, t, e, tokens, experts, 0.0), float("-inf"))
        normalizer = tl.where(t < tokens, _log_sum_exp(logit), 0.0)
        square += normalizer * normalizer
        for k in tl.static_range(TOP_K):
            n = t * TOP_K + k
            by = tl.load(expert + n, t < tokens, -1).to(tl.int32)
            wanted += (tl.load(choice + n, t < tokens, -1).to(tl.int32)[:, None] == e[None, :]).to(tl.int32)
            given += (by[:, None] == e[None, :]).to(tl.int32)
            dropped += (by == experts).to(tl.int32)
            moved += tl.load(recycled + n, t < tokens, 0).to(tl.int32)
    at = program * BLOCK_E + e
    tl.store(chances + at, tl.sum(chance, 0))
    tl.store(chosen + at, tl.sum(wanted, 0).to(tl.float32))
    tl.store(load + at, tl.sum(given, 0).to(tl.float32))
    tl.store(sums + program * _SUMS, tl.sum(entropy, 0))
    tl.store(sums + program * _SUMS + 1, tl.sum(square, 0))
    tl.store(sums + program * _SUMS + 2, tl.sum(dropped, 0).to(tl.float32))
    tl.store(sums + program * _SUMS + 3, tl.sum(moved, 0).to(tl.float32))


@triton.jit
def _over_programs(x, e, programs, size, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr):
    total = tl.zeros((BLOCK_P, BLOCK_E), tl.float32)
    for start in range(0, programs, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        total += tl.load(x + p[:, None] * size + e[None, :], (p < programs)[:, None] & (e < size)[None, :], 0.0)
    return tl.sum(total, 0)


@triton.jit
def _router_stats_finish(
    sums, chances, chosen, load, losses, out, tokens, experts, programs,
    TOP_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    e, rows, count = tl.arange(0, BLOCK_E), tokens * 1.0, tokens * TOP_K * 1.0
    share = _over_programs(chosen, e, programs, BLOCK_E, BLOCK_P, BLOCK_E) / count
    mean = _over_programs(chances, e, programs, BLOCK_E, BLOCK_P, BLOCK_E) / rows
    given = _over_programs(load, e, programs, BLOCK_E, BLOCK_P, BLOCK_E) / count
    rest = _over_programs(sums, e, programs, _SUMS, BLOCK_P, BLOCK_E) / tl.where(e < 2, rows, count)
    tl.store(losses, experts * tl.sum(share * mean, 0))
    tl.store(losses + 1, tl.sum(tl.where(e == 1, rest, 0.0), 0))
    tl.store(out + e, share, e < experts)
    tl.store(out + experts + e, given, e < experts)
    tl.store(out + 2 * experts + e, rest, e < _SUMS)


@triton.jit(do_not_specialize=["grad_balance", "grad_z"])  # they lie where the sum of all layers' losses puts them
def _router_stats_backward(
    logits, chosen, grad_balance, grad_z, grad_logits, grad_chances, tokens, experts,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    t, e = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E)
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    logit = tl.where((e < experts)[None, :], _tile(logits, t, e, tokens, experts, 0.0), float("-inf"))
    normalizer = _log_sum_exp(logit)[:, None]
    found = tl.load(grad_z) * 2.0 / tokens * normalizer * tl.exp(logit - normalizer)
    tl.store(grad_logits + t[:, None] * experts + e[None, :], found, inside)
    if tl.program_id(0) == 0:
        scale = tl.load(grad_balance) * experts / tokens
        tl.store(grad_chances + e, scale * tl.load(chosen + e, e < experts, 0.0), e < experts)


def _blocks(experts: int) -> tuple[int, int]:
    """Tokens and experts of a tile."""
    block_e = max(4, triton.next_power_of_2(experts))
    return max(16, _TILE // block_e), block_e


class _Stats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TE: Tensor, probs_TE: Tensor, choice_N: Tensor, expert_N: Tensor, recycled_N: Tensor
    ) -> tuple[Tensor, ...]:
        (tokens, experts), pool = probs_TE.shape, dict[str, Any](dtype=torch.float32, device=probs_TE.device)
        block_t, block_e = _blocks(experts)
        programs, top_k = min(_PROGRAMS, triton.cdiv(tokens, block_t)), len(choice_N) // tokens
        sums, parts_3PE = torch.empty(programs, _SUMS.value, **pool), torch.empty(3, programs, block_e, **pool)
        losses, out = torch.empty(2, **pool), torch.empty(2 * experts + _SUMS.value, **pool)
        _router_stats_sums[(programs,)](
            logits_TE, probs_TE, choice_N, expert_N, recycled_N.view(torch.uint8), sums, *parts_3PE, tokens, experts,
            TOP_K=top_k, PROGRAMS=programs, BLOCK_T=block_t, BLOCK_E=block_e,
        )  # fmt: skip
        _router_stats_finish[(1,)](
            sums, *parts_3PE, losses, out, tokens, experts, programs,
            TOP_K=top_k, BLOCK_P=max(16, 4096 // block_e), BLOCK_E=block_e,
        )  # fmt: skip
        chosen_E, load_E, (entropy, _, dropped, recycled) = out.split([experts, experts, _SUMS.value])
        balance, z = losses
        ctx.mark_non_differentiable(chosen_E, load_E, dropped, recycled, entropy)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits_TE, chosen_E)
        return balance, z, chosen_E, load_E, dropped, recycled, entropy

    @staticmethod
    def backward(ctx: Any, grad_balance: Tensor | None, grad_z: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        logits_TE, chosen_E = ctx.saved_tensors
        (tokens, experts), zero = logits_TE.shape, logits_TE.new_zeros(())
        block_t, block_e = _blocks(experts)
        grad_logits_TE, grad_chances_E = torch.empty_like(logits_TE), torch.empty_like(chosen_E)
        _router_stats_backward[(triton.cdiv(tokens, block_t),)](
            logits_TE, chosen_E, zero if grad_balance is None else grad_balance, zero if grad_z is None else grad_z,
            grad_logits_TE, grad_chances_E, tokens, experts, BLOCK_T=block_t, BLOCK_E=block_e,
        )  # fmt: skip
        return grad_logits_TE, grad_chances_E.expand(tokens, experts), None, None, None


def takes(logits_TE: Tensor, probs_TE: Tensor) -> bool:
    """Whether there are kernels for such logits and probabilities."""
    wide = logits_TE.dtype == probs_TE.dtype == torch.float32
    return wide and probs_TE.numel() > 0 and probs_TE.shape[1] <= MOST_EXPERTS


def router_stats(
    logits_TE: Tensor, probs_TE: Tensor, choice_N: Tensor, expert_N: Tensor, recycled_N: Tensor
) -> tuple[Tensor, ...]:
    """The fields of ``RouterStats`` in their order."""
    return _Stats.apply(*(x.contiguous() for x in (logits_TE, probs_TE, choice_N, expert_N, recycled_N)))
