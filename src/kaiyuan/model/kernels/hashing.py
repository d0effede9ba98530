"""The hashes of recycle routing, bit for bit those of ``kaiyuan.model.routing``: one kernel where PyTorch needs dozens.

Shapes: T tokens, E experts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _mix(x, A: tl.constexpr, B: tl.constexpr):
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * B
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * A
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def row_hash(prob, inside, e, seed, A: tl.constexpr, B: tl.constexpr, MASK: tl.constexpr):
    """int64 of 62 bits for each row of float32 ``prob`` (rows, experts ``e``), from the bits of those ``inside``."""
    bits = prob.to(tl.int32, bitcast=True).to(tl.int64)
    salt = _mix((e + 1).to(tl.int64) * A, A, B)[None, :]
    total = tl.sum(tl.where(inside, _mix(bits + salt, A, B) * (salt | 1), 0), 1)
    return _mix(total + seed.to(tl.int64), A, B) & MASK


@triton.jit
def number_hash(number, seed, A: tl.constexpr, B: tl.constexpr, MASK: tl.constexpr):
    """int64 of 62 bits for each number."""
    return _mix((number + 1).to(tl.int64) * A + seed.to(tl.int64), A, B) & MASK


@triton.jit(do_not_specialize=["seed"])
def _hash_tokens(
    probs, out, tokens, experts, seed, LOAD: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, MASK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    if LOAD:
        seed = tl.load(seed)
    t, e = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E)
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    prob = tl.load(probs + t[:, None] * experts + e[None, :], inside, 0.0)
    tl.store(out + t, row_hash(prob, inside, e, seed, A, B, MASK), t < tokens)


@triton.jit(do_not_specialize=["seed"])
def _random_bits(
    out, count, seed, LOAD: tl.constexpr, A: tl.constexpr, B: tl.constexpr, MASK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    if LOAD:
        seed = tl.load(seed)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, number_hash(i, seed, A, B, MASK), i < count)


def hash_tokens(probs_TE: Tensor, seed: int | Tensor, a: int, b: int, mask: int) -> Tensor:
    """int64 (T,): a hash of each row of float32 ``probs_TE``; ``a`` and ``b`` are the mixer's constants. ``seed``
    may be a 0-dim int64 tensor of the same device, as in ``random_bits``.
    """
    tokens, experts = probs_TE.shape
    out = torch.empty(tokens, dtype=torch.int64, device=probs_TE.device)
    block_e = triton.next_power_of_2(experts)
    block_t = max(1, 1024 // block_e)
    _hash_tokens[(triton.cdiv(tokens, block_t),)](
        probs_TE.contiguous(), out, tokens, experts, seed, LOAD=isinstance(seed, Tensor),
        A=a, B=b, MASK=mask, BLOCK_T=block_t, BLOCK_E=block_e,
    )  # fmt: skip
    return out


def random_bits(
    count: int, seed: int | Tensor, device: torch.device | str, a: int, b: int, mask: int
) -> Tensor:  # fmt: skip
    """int64 (count,): hashes of 1, 2, 3, ... and ``seed``."""
    out = torch.empty(count, dtype=torch.int64, device=device)
    _random_bits[(triton.cdiv(count, 1024),)](
        out, count, seed, LOAD=isinstance(seed, Tensor), A=a, B=b, MASK=mask, BLOCK=1024
    )
    return out
