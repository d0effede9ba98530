"""The hashes of recycle routing, bit for bit those of ``kaiyuan.model.routing``: one kernel where PyTorch needs dozens.

Shapes: T tokens, E experts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kaiyuan.model.routing import MIXER

_A, _B, _MASK = (tl.constexpr(number) for number in MIXER)


@triton.jit
def seed_of(seed, LOAD: tl.constexpr):
    """int64; ``seed`` is a number, or with ``LOAD`` where one lies in memory."""
    if LOAD:
        seed = tl.load(seed)
    return seed.to(tl.int64)


@triton.jit
def _mix(x):
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _B
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _A
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def row_hash(prob, inside, e, seed):
    """int64 of 62 bits for each row of float32 ``prob`` (rows, experts ``e``), from the bits of those ``inside``;
    ``seed`` is int64.
    """
    bits = prob.to(tl.int32, bitcast=True).to(tl.int64)
    salt = _mix((e + 1).to(tl.int64) * _A)[None, :]
    total = tl.sum(tl.where(inside, _mix(bits + salt) * (salt | 1), 0), 1)
    return _mix(total + seed) & _MASK


@triton.jit
def number_hash(number, seed):
    """int64 of 62 bits for each number; ``seed`` is int64."""
    return _mix((number + 1).to(tl.int64) * _A + seed) & _MASK


@triton.jit(do_not_specialize=["seed"])
def _route_hash_tokens(
    probs, out, tokens, experts, seed, LOAD: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    t, e = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E)
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    prob = tl.load(probs + t[:, None] * experts + e[None, :], inside, 0.0)
    tl.store(out + t, row_hash(prob, inside, e, seed_of(seed, LOAD)), t < tokens)


@triton.jit(do_not_specialize=["seed"])
def _route_random_bits(out, count, seed, LOAD: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, number_hash(i, seed_of(seed, LOAD)), i < count)


def hash_tokens(probs_TE: Tensor, seed: int | Tensor) -> Tensor:
    """int64 (T,): a hash of each row of float32 ``probs_TE``. ``seed`` may be a 0-dim int64 tensor of the same device,
    as in ``random_bits``.
    """
    tokens, experts = probs_TE.shape
    out = torch.empty(tokens, dtype=torch.int64, device=probs_TE.device)
    block_e = triton.next_power_of_2(experts)
    block_t = max(1, 1024 // block_e)
    _route_hash_tokens[(triton.cdiv(tokens, block_t),)](
        probs_TE.contiguous(), out, tokens, experts, seed, LOAD=isinstance(seed, Tensor),
        BLOCK_T=block_t, BLOCK_E=block_e,
    )  # fmt: skip
    return out


def random_bits(count: int, seed: int | Tensor, device: torch.device | str) -> Tensor:
    """int64 (count,): hashes of 1, 2, 3, ... and ``seed``."""
    out = torch.empty(count, dtype=torch.int64, device=device)
    _route_random_bits[(triton.cdiv(count, 1024),)](out, count, seed, LOAD=isinstance(seed, Tensor), BLOCK=1024)
    return out
