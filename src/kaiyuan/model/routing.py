"""Which expert computes which token: top-k choice, capacity, and recycle routing (paper 2.2.3).

An expert takes at most ``capacity`` tokens. Tokens beyond it are *dropped* (the shared expert alone computes them) or
*recycled*: handed at random to free slots of experts that are not full, every free slot equally likely. The combine
weight of a recycled token is the router's probability of the expert it was given to, so the router still learns from
it.

Everything is integer arithmetic and sorting on whole tensors: no host synchronisation, no generator state (random
numbers are hashes of the seed), so the same seed gives the same routing on any device, on recomputation, and inside
each expert-parallel rank, which calls it on the tokens it holds. Tokens are put in an order that depends on their
probabilities and not on their place in the batch, so permuting a batch permutes its routing.

On a GPU kernels give the same bits for one choice a token (``kaiyuan.model.kernels.routing``) and the same statistics
(``kaiyuan.model.kernels.router_stats``); what is here is their reference.

Shapes: T tokens, E experts, K choices a token, N = T * K assignments, C capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kaiyuan.model.fused import is_gpu, on_gpu

Mode = Literal["dropless", "drop", "recycle"]
Overflow = Literal["probability", "position", "random"]

_MIX_A = -0x61C8864680B583EB  # odd 64-bit constants (two's complement) of a multiply-xorshift mixer
_MIX_B = -0x40A7B892E31B1A47
HASH_BITS = 62
"""Of a token's or slot's random number: an int64 above all of them is left to stand for none."""
NO_HASH = 2**HASH_BITS
_BITS = NO_HASH - 1
MIXER = (_MIX_A, _MIX_B, _BITS)
"""What the kernels' hashes are made with."""
PRECEDENCE_BITS = 54
"""What a precedence stays below."""
TIE_BITS = 22
"""Of a token's hash: what a precedence by probability has of it, to decide between equal probabilities."""
BITS_OF_ONE = 0x3F800000
"""float32 1.0 as an integer; those of smaller probabilities are smaller, in the same order."""
_MOST_IN_ONE_SORT = 2 ** (63 - PRECEDENCE_BITS) - 1
"""Experts whose number and a precedence fit into one sortable int64."""


@dataclass(frozen=True)
class RoutingPolicy:
    """How training treats experts that are chosen by more tokens than they have slots for. Inference is always
    dropless.
    """

    mode: Mode = "recycle"
    capacity_factor: float = 1.25
    min_capacity: int = 8
    overflow: Overflow = "probability"
    """Which tokens of an overfull expert go: those of lowest probability, the last in the batch, or random ones."""
    draw: Literal["content", "place"] = "content"
    """What a token's random number comes from: the bits of its probabilities, so that permuting a batch permutes its
    routing; or its place in the batch, so that rounding, which differs between devices, changes nothing."""
    seed: int = 0

    def capacity(self, tokens: int, top_k: int, experts: int) -> int:
        """Slots an expert has: ``max(min_capacity, ceil(factor * tokens * k / E))``, at most one a token."""
        slots = max(self.min_capacity, math.ceil(self.capacity_factor * tokens * top_k / experts))
        return min(slots, tokens)


DROPLESS = RoutingPolicy(mode="dropless")


class Routing(NamedTuple):
    """The outcome for T tokens. Assignment ``t * K + j`` is token t's j-th choice."""

    expert_N: Tensor
    """int64; the expert that computes the assignment, E if none does."""
    weight_N: Tensor
    """float32; the combine weight, 0 where dropped. Carries the gradient to the router."""
    choice_N: Tensor
    """int64; the expert the router chose, before capacity."""
    recycled_N: Tensor
    """bool; computed by another expert than the one chosen."""
    complete: bool
    """Whether it is certain, without looking, that no assignment was dropped."""


def _mix(x: Tensor) -> Tensor:
    """A 64-bit hash of every element: sequential inputs give outputs that look random and independent."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_B
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_A
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def mix_seed(*numbers: int) -> int:
    """One 62-bit seed out of several numbers (run, step, layer, ...), without any of them cancelling another."""
    whole = 2**64 - 1
    seed = 0
    for number in numbers:
        seed = (seed + number + _MIX_A) & whole
        seed = ((seed ^ (seed >> 30)) * _MIX_B) & whole
        seed = ((seed ^ (seed >> 27)) * _MIX_A) & whole
        seed ^= seed >> 31
    return seed & _BITS


class Seeds(NamedTuple):
    """What one layer's step draws from: numbers, or 0-dim int64 tensors where the routing runs, which a captured step
    reads each time it is replayed.
    """

    tokens: int | Tensor
    """For the order of tokens of equal probability, and of those that are handed on."""
    slots: int | Tensor
    """For the order of free slots."""

    @classmethod
    def of(cls, policy: RoutingPolicy, seed: int) -> Seeds:
        return cls(mix_seed(policy.seed, seed), mix_seed(policy.seed, seed, 1))


def random_bits(count: int, seed: int | Tensor, device: torch.device | str) -> Tensor:
    """``count`` pseudo-random int64 of 62 bits, the same on every device."""
    return _mix((torch.arange(count, device=device) + 1) * _MIX_A + seed) & _BITS


def _token_hash(probs_TE: Tensor, seed: int | Tensor) -> Tensor:
    """int64 (T,), >= 0: a hash of each token's probabilities, hence independent of its place in the batch."""
    if on_gpu(probs_TE):
        from kaiyuan.model.kernels.hashing import hash_tokens

        return hash_tokens(probs_TE.detach(), seed)
    bits = probs_TE.detach().contiguous().view(torch.int32).long()
    salt = _mix((torch.arange(probs_TE.shape[1], device=bits.device) + 1) * _MIX_A)
    return _mix((_mix(bits + salt) * (salt | 1)).sum(1) + seed) & _BITS


def count_each(numbers_N: Tensor, kinds: int) -> Tensor:
    """int64 (kinds,): how often each number under ``kinds`` occurs. ``bincount`` would wait for a GPU."""
    if not is_gpu(numbers_N):
        return torch.bincount(numbers_N, minlength=kinds + 1)[:kinds]
    return (numbers_N == torch.arange(kinds, device=numbers_N.device)[:, None]).sum(1)


def _ranks(expert_N: Tensor, before_N: Tensor, experts: int) -> Tensor:
    """int64 (N,): the place of each assignment within its expert, by increasing ``before_N`` (a precedence)."""
    if experts <= _MOST_IN_ONE_SORT:
        order = torch.argsort((expert_N << PRECEDENCE_BITS) + before_N, stable=True)
    else:
        order = torch.argsort(before_N, stable=True)
        order = order[torch.argsort(expert_N[order], stable=True)]
    sorted_N = expert_N[order]
    starts = torch.searchsorted(sorted_N, torch.arange(experts, device=order.device))[sorted_N]
    ranks = torch.empty_like(expert_N)
    ranks[order] = torch.arange(len(order), device=order.device) - starts
    return ranks


def _precedence(policy: RoutingPolicy, prob_N: Tensor, hash_N: Tensor) -> Tensor:
    """int64 (N,) of ``PRECEDENCE_BITS``: the smaller, the surer an assignment keeps its slot."""
    if policy.overflow == "position":
        return torch.arange(len(prob_N), device=prob_N.device)
    if policy.overflow == "random":
        return hash_N >> (HASH_BITS - PRECEDENCE_BITS)
    inverted = BITS_OF_ONE - prob_N.detach().clamp(0, 1).contiguous().view(torch.int32).long()
    return (inverted << TIE_BITS) + (hash_N >> (HASH_BITS - TIE_BITS))


def route(
    probs_TE: Tensor, top_k: int, policy: RoutingPolicy = DROPLESS, *, seed: int | Seeds = 0,
    renormalize: bool = False,
) -> Routing:  # fmt: skip
    """Assign every token to ``top_k`` of E experts under ``policy``.

    ``probs_TE`` are the router's softmax probabilities in float32; ``seed`` should differ by step and layer. With
    ``renormalize`` the weights of a token's computed assignments sum to 1.
    """
    tokens, experts = probs_TE.shape
    capacity = policy.capacity(tokens, top_k, experts)
    limited = policy.mode != "dropless" and capacity < tokens
    if limited:
        seeds = seed if isinstance(seed, Seeds) else Seeds.of(policy, seed)
        if top_k == 1 and not renormalize and on_gpu(probs_TE):
            from kaiyuan.model.kernels import routing as kernels

            if kernels.takes(probs_TE):
                return kernels.route(probs_TE, policy, capacity, seeds)
    prob_TK, choice_TK = probs_TE.topk(top_k, dim=-1) if top_k > 1 else probs_TE.max(dim=-1, keepdim=True)
    choice_N = choice_TK.flatten()
    expert_N, recycled_N = choice_N, torch.zeros_like(choice_N, dtype=torch.bool)
    weight_TK, complete = prob_TK, True
    if limited:
        by_place = policy.draw == "place"
        hash_T = random_bits(tokens, seeds.tokens, probs_TE.device) if by_place else _token_hash(probs_TE, seeds.tokens)
        hash_N = hash_T.repeat_interleave(top_k)
        if top_k > 1:
            hash_N = _mix(hash_N + choice_N) & _BITS
        over_N = _ranks(choice_N, _precedence(policy, prob_TK.flatten(), hash_N), experts) >= capacity
        expert_N = torch.where(over_N, experts, choice_N)
        complete = policy.mode == "recycle" and top_k == 1 and capacity * experts >= tokens
        if policy.mode == "recycle":
            expert_N = _recycle(expert_N, hash_N, experts, capacity, seeds.slots)
            expert_N = _without_repeats(expert_N.view(tokens, top_k), experts).flatten()
        recycled_N = over_N & (expert_N < experts)
        safe_TK = expert_N.clamp(max=experts - 1).view(tokens, top_k)
        weight_TK = probs_TE.gather(1, safe_TK) * (expert_N < experts).view(tokens, top_k)
    if renormalize:
        weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
    return Routing(expert_N, weight_TK.flatten(), choice_N, recycled_N, complete)


def _recycle(expert_N: Tensor, hash_N: Tensor, experts: int, capacity: int, seed: int | Tensor) -> Tensor:
    """Give every assignment without an expert (E) a free slot, at random; those beyond the last free slot keep E.

    All E * C slots get a random key, taken ones sort last; the i-th homeless assignment takes the i-th slot of that
    order.
    """
    load_E = count_each(expert_N, experts)
    slot_C = torch.arange(capacity, device=expert_N.device)
    taken_S = (slot_C < load_E[:, None]).flatten()
    order_S = torch.argsort(torch.where(taken_S, NO_HASH, _slot_keys(experts * capacity, seed, taken_S)))
    free = experts * capacity - taken_S.sum()
    homeless_N = expert_N == experts
    turn_N = torch.empty_like(expert_N)
    by_hash = torch.argsort(torch.where(homeless_N, hash_N, NO_HASH), stable=True)
    turn_N[by_hash] = torch.arange(len(expert_N), device=expert_N.device)
    slot_N = order_S[turn_N.clamp(max=experts * capacity - 1)]
    placed_N = homeless_N & (turn_N < free)
    return torch.where(placed_N, slot_N // capacity, expert_N)


def _slot_keys(slots: int, seed: int | Tensor, like: Tensor) -> Tensor:
    """``random_bits`` for every slot, on the device of ``like``."""
    if on_gpu(like):
        from kaiyuan.model.kernels import hashing

        return hashing.random_bits(slots, seed, like.device)
    return random_bits(slots, seed, like.device)


def _without_repeats(expert_TK: Tensor, experts: int) -> Tensor:
    """Drop a recycled assignment that met an expert its token already has (possible for K > 1 only)."""
    if expert_TK.shape[1] == 1:
        return expert_TK
    same_TKK = expert_TK[:, :, None] == expert_TK[:, None, :]
    earlier_KK = torch.ones(same_TKK.shape[1:], dtype=torch.bool, device=expert_TK.device).tril(-1)
    return torch.where((same_TKK & earlier_KK).any(-1), experts, expert_TK)


class RouterStats(NamedTuple):
    """What one layer's routing did to one batch. ``balance_loss`` and ``z_loss`` carry gradients, the rest does not."""

    balance_loss: Tensor
    """``E * sum_e f_e * P_e``: f the share of choices, P the mean probability; 1 when perfectly even (Switch form)."""
    z_loss: Tensor
    """Mean squared log-sum-exp of the router's logits."""
    chosen_E: Tensor
    """float32; share of assignments whose choice was each expert (sums to 1)."""
    load_E: Tensor
    """float32; share of assignments that each expert computed, after dropping and recycling."""
    dropped: Tensor
    recycled: Tensor
    entropy: Tensor
    """Mean entropy of the router's distribution in nats; log E when it knows nothing."""

    def detached(self) -> RouterStats:
        """The same without gradients."""
        return RouterStats(*(value.detach() for value in self))

    @property
    def violation(self) -> Tensor:
        """How far the fullest expert's computed load is over the mean: max / mean - 1."""
        return self.load_E.max() / self.load_E.mean().clamp(min=1e-9) - 1


def router_stats(logits_TE: Tensor, probs_TE: Tensor, routing: Routing) -> RouterStats:
    """Losses and metrics of one layer. Statistics use the router's own choices, before capacity, as the release's
    code does.
    """
    if on_gpu(probs_TE):
        from kaiyuan.model.kernels import router_stats as kernels

        if kernels.takes(logits_TE, probs_TE):
            return RouterStats(
                *kernels.router_stats(logits_TE, probs_TE, routing.choice_N, routing.expert_N, routing.recycled_N)
            )
    experts = probs_TE.shape[1]
    count = len(routing.choice_N)
    chosen_E = count_each(routing.choice_N, experts).float() / count
    load_E = chosen_E
    if routing.expert_N is not routing.choice_N:
        load_E = count_each(routing.expert_N, experts).float() / count
    with torch.no_grad():
        entropy = -(probs_TE * probs_TE.clamp(min=1e-30).log()).sum(-1).mean()
        dropped, recycled = (routing.expert_N == experts).float().mean(), routing.recycled_N.float().mean()
    return RouterStats(
        balance_loss=experts * (chosen_E * probs_TE.mean(0)).sum(),
        z_loss=torch.logsumexp(logits_TE, dim=-1).square().mean(),
        chosen_E=chosen_E,
        load_E=load_E,
        dropped=dropped,
        recycled=recycled,
        entropy=entropy,
    )
