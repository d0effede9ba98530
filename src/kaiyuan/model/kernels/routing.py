"""Drop and recycle routing of one choice a token, in five kernels: the integers of ``kaiyuan.model.routing``, no sorts.

1. *Choose*: each token's expert, hash and precedence.
2. *List*: the precedences once more, by expert.
3. *Select*: for every overfull expert the last token that fits. Bisection finds its precedence, without a sort.
4. *Decide*: who keeps the chosen expert and who is homeless.
5. *Recycle*: the i-th homeless token, by its hash, takes the i-th free slot, by the slot's hash.

A place in one of those orders is a rank among evenly distributed 62-bit hashes. Their first 8 bits are a bucket, in
which members stand in any order; a rank is the number of members of earlier buckets and of smaller members of the
same one, counted one by one. Atomic additions hand out the places in lists and buckets, so those differ from run to
run; what is counted does not. Slots are put into buckets beside step 2 and ranked beside step 3, by programs of their
own: selection needs no more than one for each expert.

The cost of a rank grows with its bucket, so that of all is quadratic in the fullest one. Tokens of equal
probabilities have equal hashes and share a bucket. Recycle routing of 32,768 tokens over 16 experts takes 44 us on an
H200 with usual logits (363 us without these kernels), but 631 us if all tokens have the same probabilities (335 us).

Shapes: T tokens, E experts, C slots of each, S = E * C slots, B buckets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.model.kernels.hashing import number_hash, row_hash, seed_of
from kaiyuan.model.kernels.selection import EXPERTS, LOW_BITS, LOW_MOST, select_expert
from kaiyuan.model.routing import (
    BITS_OF_ONE,
    HASH_BITS,
    NO_HASH,
    PRECEDENCE_BITS,
    TIE_BITS,
    Routing,
    RoutingPolicy,
    Seeds,
)

MOST_EXPERTS: int = EXPERTS.value
_BITS_OF_ONE, _NO_HASH = tl.constexpr(BITS_OF_ONE), tl.constexpr(NO_HASH)
_TIE_BITS, _TIE_SHIFT = tl.constexpr(TIE_BITS), tl.constexpr(HASH_BITS - TIE_BITS)
_RANDOM_SHIFT = tl.constexpr(HASH_BITS - PRECEDENCE_BITS)
_BUCKET_BITS = 8
_BUCKETS, _BUCKET_SHIFT = tl.constexpr(2**_BUCKET_BITS), tl.constexpr(HASH_BITS - _BUCKET_BITS)
_BLOCK = 1024
"""Tokens or slots of one program; of bisection 4 times as many precedences at once."""
_RANKED, _TILE = 32, 64
"""Members that one program of 4 warps ranks, and how many it compares them with at once."""


class _Tokens(NamedTuple):
    """A number for every token, in the order of tokens if nothing else is said."""

    choice: Tensor
    """int64; the expert it chose."""
    hashes: Tensor
    """int64; its random number."""
    precedence: Tensor
    """int64."""
    listed: Tensor
    """int32; its place among those that chose the same expert, in any order."""
    high: Tensor
    """int32; the high bits of precedences, by expert and in the order of ``listed``."""
    low: Tensor
    """int32; their low bits."""
    homeless: Tensor
    """int32; the tokens without an expert, by bucket; -1 where a bucket has room left."""


class _Edges(NamedTuple):
    """The last token of every expert that keeps its slot."""

    edges: Tensor
    """int64 (E,); its precedence, more than any if all fit."""
    lasts: Tensor
    """int32 (E,); its number if later ones with the same precedence go, else T."""


class _Slots(NamedTuple):
    """int32 (S,) with recycling, else empty."""

    free: Tensor
    """The free slots, by bucket; -1 where a bucket has room left."""
    turns: Tensor
    """The expert of the free slot whose turn is i-th."""


class _Buckets(NamedTuple):
    """int32 (B,)."""

    sizes: Tensor
    """Tokens or slots whose hash falls into each bucket: how much room it gets."""
    filled: Tensor
    """Those of them that are homeless or free: how much of that is taken."""


class _Counters(NamedTuple):
    """Zero at first."""

    chosen: Tensor
    """int32 (``MOST_EXPERTS``,); tokens that chose each expert."""
    tokens: _Buckets
    slots: _Buckets


class _Found(NamedTuple):
    """What is found for every token, as in ``Routing``."""

    expert: Tensor
    weight: Tensor
    recycled: Tensor
    """uint8, 0 or 1."""


class _Buffers(NamedTuple):
    """All that the kernels write."""

    tokens: _Tokens
    edges: _Edges
    slots: _Slots
    counters: _Counters
    found: _Found


class _Given(NamedTuple):
    """What is routed, and how."""

    probs_TE: Tensor
    policy: RoutingPolicy
    capacity: int
    seeds: Seeds

    @property
    def recycles(self) -> bool:
        return self.policy.mode == "recycle"

    @property
    def slots(self) -> int:
        """Slots that are handed on, free or not: none without recycling."""
        return self.capacity * self.probs_TE.shape[1] if self.recycles else 0

    @property
    def slot_seed_lies(self) -> dict[str, bool]:
        """Whether the seed of slots lies in memory."""
        return {"LOAD_SLOT": isinstance(self.seeds.slots, Tensor)}


@triton.jit
def _precedence(prob, hashed, t, OVERFLOW: tl.constexpr):
    """int64 of ``PRECEDENCE_BITS``: the smaller, the surer a token keeps its slot."""
    if OVERFLOW == "position":
        return t.to(tl.int64)
    elif OVERFLOW == "random":  # noqa: RET505 (Triton compiles one of them)
        return hashed >> _RANDOM_SHIFT
    else:
        known = tl.where(prob == prob, tl.minimum(tl.maximum(prob, 0.0), 1.0), 0.0)
        inverted = _BITS_OF_ONE - known.to(tl.int32, bitcast=True).to(tl.int64)
        return (inverted << _TIE_BITS) + (hashed >> _TIE_SHIFT)


@triton.jit
def _choose_tokens(
    probs, seed, choice, hashes, precedence, listed, homeless, chosen, sizes, tokens, experts, program,
    OVERFLOW: tl.constexpr, BY_PLACE: tl.constexpr, RECYCLE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    t, e = program * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E)
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    prob = tl.load(probs + t[:, None] * experts + e[None, :], inside, -1.0)
    best = tl.argmax(tl.where(prob == prob, prob, 2.0), 1)  # the first of equals, and of NaN, as torch's
    mine = best[:, None] == e[None, :]
    if BY_PLACE:
        drawn = number_hash(t, seed)
    else:
        drawn = row_hash(prob, inside, e, seed)
    key = _precedence(tl.sum(tl.where(mine, prob, 0.0), 1), drawn, t, OVERFLOW)
    tl.store(choice + t, best.to(tl.int64), t < tokens)
    tl.store(precedence + t, key, t < tokens)
    one = (mine & inside).to(tl.int32)
    count = tl.sum(one, 0)
    before = tl.atomic_add(chosen + e, count, count > 0, sem="relaxed")
    tl.store(listed + t, tl.sum(tl.where(mine, tl.cumsum(one, 0) - one + before[None, :], 0), 1), t < tokens)
    if RECYCLE:
        tl.store(hashes + t, drawn, t < tokens)
        tl.store(homeless + t, tl.full((BLOCK_T,), -1, tl.int32), t < tokens)
        tl.atomic_add(sizes + (drawn >> _BUCKET_SHIFT).to(tl.int32), 1, t < tokens, sem="relaxed")


@triton.jit(do_not_specialize=["seed", "slot_seed"])
def _route_choose(
    probs, seed, slot_seed, choice, hashes, precedence, listed, homeless, free, chosen, token_sizes, slot_sizes, tokens,
    experts, slots, LOAD: tl.constexpr, LOAD_SLOT: tl.constexpr, OVERFLOW: tl.constexpr, BY_PLACE: tl.constexpr,
    RECYCLE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    program, choosing = tl.program_id(0), tl.cdiv(tokens, BLOCK_T)
    if program < choosing:
        _choose_tokens(
            probs, seed_of(seed, LOAD), choice, hashes, precedence, listed, homeless, chosen, token_sizes, tokens,
            experts, program, OVERFLOW, BY_PLACE, RECYCLE, BLOCK_T, BLOCK_E,
        )  # fmt: skip
    else:
        s = (program - choosing) * BLOCK_S + tl.arange(0, BLOCK_S)
        drawn = number_hash(s, seed_of(slot_seed, LOAD_SLOT))
        tl.store(free + s, tl.full((BLOCK_S,), -1, tl.int32), s < slots)
        tl.atomic_add(slot_sizes + (drawn >> _BUCKET_SHIFT).to(tl.int32), 1, s < slots, sem="relaxed")


@triton.jit
def _place(hashed, wanted, sizes, filled):
    """A place of its own in its hash's bucket for each that is ``wanted``."""
    size = tl.load(sizes + tl.arange(0, _BUCKETS))
    bucket = (hashed >> _BUCKET_SHIFT).to(tl.int32)
    return tl.gather(tl.cumsum(size, 0) - size, bucket, 0) + tl.atomic_add(filled + bucket, 1, wanted, sem="relaxed")


@triton.jit(do_not_specialize=["slot_seed"])
def _route_list(
    choice, precedence, listed, high, low, free, chosen, sizes, filled, slot_seed, tokens, experts, capacity,
    LOAD_SLOT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, listing = tl.program_id(0), tl.cdiv(tokens, BLOCK)
    if program < listing:
        t = program * BLOCK + tl.arange(0, BLOCK)
        count = tl.load(chosen + tl.arange(0, EXPERTS))
        expert, key = tl.load(choice + t, t < tokens, 0).to(tl.int32), tl.load(precedence + t, t < tokens, 0)
        place = tl.gather(tl.cumsum(count, 0) - count, expert, 0) + tl.load(listed + t, t < tokens, 0)
        tl.store(high + place, (key >> LOW_BITS).to(tl.int32), t < tokens)
        tl.store(low + place, (key & LOW_MOST).to(tl.int32), t < tokens)
    else:
        s = (program - listing) * BLOCK + tl.arange(0, BLOCK)
        inside = s < experts * capacity
        is_free = inside & (s % capacity >= tl.load(chosen + s // capacity, inside, 0))
        place = _place(number_hash(s, seed_of(slot_seed, LOAD_SLOT)), is_free, sizes, filled)
        tl.store(free + place, s, is_free)


@triton.jit
def _hash_of(member, hashes, seed, SLOTS: tl.constexpr):
    """The hash of a slot or a token, more than any where there is none."""
    if SLOTS:
        drawn = number_hash(member, seed)
    else:
        drawn = tl.load(hashes + member, member >= 0, 0)
    return tl.where(member >= 0, drawn, _NO_HASH)


@triton.jit
def _ranks(
    members, hashes, seed, sizes, filled, count, program, SLOTS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The members in this program's places, -1 where there is none, and their ranks."""
    i, b = program * BLOCK + tl.arange(0, BLOCK), tl.arange(0, _BUCKETS)
    member = tl.load(members + i, i < count, -1)
    smaller = tl.zeros((BLOCK, TILE), tl.int32)
    before = 0
    if tl.max(member, 0) >= 0:
        drawn = _hash_of(member, hashes, seed, SLOTS)
        bucket = (drawn >> _BUCKET_SHIFT).to(tl.int32)  # the one after the last where there is no member
        first, last = tl.min(bucket, 0), tl.max(tl.where(member >= 0, bucket, 0), 0)
        size, fill = tl.load(sizes + b), tl.load(filled + b)
        before = tl.sum(tl.where(b < first, fill, 0), 0)
        begin = tl.sum(tl.where(b < first, size, 0), 0)
        end = tl.sum(tl.where(b < last, size, tl.where(b == last, fill, 0)), 0)
        for start in range(begin, end, TILE):
            j = start + tl.arange(0, TILE)
            other = tl.load(members + j, j < end, -1)
            other_drawn = _hash_of(other, hashes, seed, SLOTS)[None, :]
            tied = (other_drawn == drawn[:, None]) & (other[None, :] < member[:, None])
            smaller += ((other_drawn < drawn[:, None]) | tied).to(tl.int32)
    return member, before + tl.sum(smaller, 1)


@triton.jit(do_not_specialize=["slot_seed"])
def _route_select(
    choice, precedence, high, low, edges, lasts, free, turns, chosen, sizes, filled, slot_seed, tokens, experts,
    capacity, LOAD_SLOT: tl.constexpr, BLOCK: tl.constexpr, RANKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if program < experts:
        select_expert(choice, precedence, high, low, chosen, edges, lasts, tokens, capacity, program, BLOCK)
    else:
        seed, slots = seed_of(slot_seed, LOAD_SLOT), experts * capacity
        slot, rank = _ranks(free, choice, seed, sizes, filled, slots, program - experts, True, RANKED, TILE)
        tl.store(turns + rank, slot // capacity, slot >= 0)


@triton.jit
def _route_decide(
    probs, choice, hashes, precedence, homeless, edges, lasts, sizes, filled, expert, weight, recycled,
    tokens, experts, RECYCLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = t < tokens
    chosen = tl.load(choice + t, inside, 0).to(tl.int32)
    key, edge = tl.load(precedence + t, inside, 0), tl.load(edges + chosen)
    stays = (key < edge) | ((key == edge) & (t <= tl.load(lasts + chosen)))
    tl.store(expert + t, tl.where(stays, chosen, experts).to(tl.int64), inside)
    tl.store(weight + t, tl.load(probs + t * experts + chosen, inside & stays, 0.0), inside)
    tl.store(recycled + t, tl.zeros((BLOCK,), tl.uint8), inside)
    if RECYCLE:
        drawn, leaves = tl.load(hashes + t, inside, 0), inside & (stays == 0)
        tl.store(homeless + _place(drawn, leaves, sizes, filled), t, leaves)


@triton.jit
def _route_recycle(
    probs, hashes, homeless, turns, sizes, filled, free, expert, weight, recycled, tokens, experts,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    t, turn = _ranks(homeless, hashes, 0, sizes, filled, tokens, tl.program_id(0), False, BLOCK, TILE)
    placed = (t >= 0) & (turn < tl.sum(tl.load(free + tl.arange(0, _BUCKETS)), 0))
    found = tl.load(turns + turn, placed, 0)
    tl.store(expert + t, found.to(tl.int64), placed)
    tl.store(weight + t, tl.load(probs + t * experts + found, placed, 0.0), placed)
    tl.store(recycled + t, tl.full((BLOCK,), 1, tl.uint8), placed)


@triton.jit
def _route_weight_gradient(grad, expert, out, tokens, experts, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr):
    t, e = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E)
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    mine = tl.load(expert + t, t < tokens, -1).to(tl.int32)[:, None] == e[None, :]
    value = tl.load(grad + t, t < tokens, 0.0)[:, None]
    tl.store(out + t[:, None] * experts + e[None, :], tl.where(mine, value, 0.0), inside)


def _tiles(tokens: int, experts: int) -> tuple[int, int, int]:
    """Programs over all tokens, and the tokens and experts of each."""
    block_e = max(2, triton.next_power_of_2(experts))
    block_t = max(16, 2048 // block_e)
    return triton.cdiv(tokens, block_t), block_t, block_e


def _buffers(given: _Given) -> _Buffers:
    (tokens, experts), pool = given.probs_TE.shape, dict[str, Any](device=given.probs_TE.device)
    choice, expert = (torch.empty(tokens, dtype=torch.int64, **pool) for _ in range(2))
    hashes, precedence = torch.empty(2, tokens, dtype=torch.int64, **pool)
    weight, recycled = torch.empty(tokens, **pool), torch.empty(tokens, dtype=torch.uint8, **pool)
    listed, high, low, homeless = torch.empty(4, tokens, dtype=torch.int32, **pool)
    edges, lasts = torch.empty(experts, dtype=torch.int64, **pool), torch.empty(experts, dtype=torch.int32, **pool)
    free, turns = torch.empty(2, given.slots, dtype=torch.int32, **pool)
    counters = torch.zeros(MOST_EXPERTS + 4 * _BUCKETS.value, dtype=torch.int32, **pool)
    chosen, *buckets = counters.split([MOST_EXPERTS] + 4 * [_BUCKETS.value])
    return _Buffers(
        _Tokens(choice, hashes, precedence, listed, high, low, homeless),
        _Edges(edges, lasts),
        _Slots(free, turns),
        _Counters(chosen, _Buckets(*buckets[:2]), _Buckets(*buckets[2:])),
        _Found(expert, weight, recycled),
    )


def _choose(given: _Given, tokens: _Tokens, slots: _Slots, counters: _Counters) -> None:
    programs, block_t, block_e = _tiles(*given.probs_TE.shape)
    _route_choose[(programs + triton.cdiv(given.slots, _BLOCK),)](
        given.probs_TE, *given.seeds, tokens.choice, tokens.hashes, tokens.precedence, tokens.listed, tokens.homeless,
        slots.free, counters.chosen, counters.tokens.sizes, counters.slots.sizes, *given.probs_TE.shape, given.slots,
        LOAD=isinstance(given.seeds.tokens, Tensor), **given.slot_seed_lies, OVERFLOW=given.policy.overflow,
        BY_PLACE=given.policy.draw == "place", RECYCLE=given.recycles, BLOCK_T=block_t, BLOCK_E=block_e, BLOCK_S=_BLOCK,
    )  # fmt: skip


def _list(given: _Given, tokens: _Tokens, slots: _Slots, counters: _Counters) -> None:
    programs = triton.cdiv(len(given.probs_TE), _BLOCK) + triton.cdiv(given.slots, _BLOCK)
    _route_list[(programs,)](
        tokens.choice, tokens.precedence, tokens.listed, tokens.high, tokens.low, slots.free, counters.chosen,
        *counters.slots, given.seeds.slots, *given.probs_TE.shape, given.capacity,
        **given.slot_seed_lies, BLOCK=_BLOCK,
    )  # fmt: skip


def _select(given: _Given, tokens: _Tokens, edges: _Edges, slots: _Slots, counters: _Counters) -> None:
    experts = given.probs_TE.shape[1]
    _route_select[(experts + triton.cdiv(given.slots, 2 * _RANKED),)](
        tokens.choice, tokens.precedence, tokens.high, tokens.low, *edges, *slots, counters.chosen, *counters.slots,
        given.seeds.slots, *given.probs_TE.shape, given.capacity,
        **given.slot_seed_lies, BLOCK=4 * _BLOCK, RANKED=2 * _RANKED, TILE=_TILE, num_warps=8,
    )  # fmt: skip


def _decide(given: _Given, tokens: _Tokens, edges: _Edges, counters: _Counters, found: _Found) -> None:
    _route_decide[(triton.cdiv(len(given.probs_TE), 256),)](
        given.probs_TE, tokens.choice, tokens.hashes, tokens.precedence, tokens.homeless, *edges, *counters.tokens,
        *found, *given.probs_TE.shape, RECYCLE=given.recycles, BLOCK=256,
    )  # fmt: skip


def _recycle(given: _Given, tokens: _Tokens, slots: _Slots, counters: _Counters, found: _Found) -> None:
    _route_recycle[(triton.cdiv(len(given.probs_TE), _RANKED),)](
        given.probs_TE, tokens.hashes, tokens.homeless, slots.turns, *counters.tokens, counters.slots.filled,
        *found, *given.probs_TE.shape, BLOCK=_RANKED, TILE=_TILE,
    )  # fmt: skip


def _routed(given: _Given) -> tuple[Tensor, ...]:
    """``weight``, ``expert``, ``choice`` and ``recycled`` of every token."""
    tokens, edges, slots, counters, found = _buffers(given)
    _choose(given, tokens, slots, counters)
    _list(given, tokens, slots, counters)
    _select(given, tokens, edges, slots, counters)
    _decide(given, tokens, edges, counters, found)
    if given.recycles:
        _recycle(given, tokens, slots, counters, found)
    return found.weight, found.expert, tokens.choice, found.recycled.view(torch.bool)


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, probs_TE: Tensor, policy: RoutingPolicy, capacity: int, seeds: Seeds
    ) -> tuple[Tensor, ...]:  # fmt: skip
        weight, *others = _routed(_Given(probs_TE, policy, capacity, seeds))
        ctx.mark_non_differentiable(*others)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(others[0])
        ctx.experts = probs_TE.shape[1]
        return weight, *others

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_T is None:
            return None, None, None, None
        (expert_T,) = ctx.saved_tensors
        out_TE = grad_T.new_empty(len(expert_T), ctx.experts)
        programs, block_t, block_e = _tiles(*out_TE.shape)
        _route_weight_gradient[(programs,)](
            grad_T.contiguous(), expert_T, out_TE, *out_TE.shape, BLOCK_T=block_t, BLOCK_E=block_e
        )  # fmt: skip
        return out_TE, None, None, None


def takes(probs_TE: Tensor) -> bool:
    """Whether there are kernels for such probabilities."""
    return probs_TE.dtype == torch.float32 and probs_TE.shape[1] <= MOST_EXPERTS


def route(probs_TE: Tensor, policy: RoutingPolicy, capacity: int, seeds: Seeds) -> Routing:
    """As ``kaiyuan.model.routing.route`` with one choice a token, where an expert has fewer slots than there are
    tokens.
    """
    weight, expert, choice, recycled = _Routed.apply(probs_TE.contiguous(), policy, capacity, seeds)
    complete = policy.mode == "recycle" and capacity * probs_TE.shape[1] >= len(probs_TE)
    return Routing(expert, weight, choice, recycled, complete)
