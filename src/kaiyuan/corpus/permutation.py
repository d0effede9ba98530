"""Pseudo-random permutations of 0 .. n-1 that are computed, not stored, and keyed hashes: the same on every machine.

Nothing here comes from a library's random generator, whose streams may change between versions: the order of the data
of a run that is resumed years later is the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

_MASK = 2**64 - 1
_ROUNDS = 6


def key_of(*parts: int | str) -> int:
    """A 64-bit key from ``parts``; different parts give (but for chance) different keys."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "little")


def mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit numbers that looks random."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True)
class Permutation:
    """A bijection of 0 .. ``size`` - 1 chosen by ``key``: ``permutation(i)`` costs a few hashes, whatever the size.

    A Feistel network permutes the smallest range of 4^b numbers that holds ``size``; a result outside of 0 ..
    ``size`` - 1 is permuted again until it is inside ("cycle walking", Black and Rogaway 2002): fewer than four times
    on average.
    """

    size: int
    key: int

    def __call__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is not an index below {self.size}")
        half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        value = self._network(index, half)
        while value >= self.size:
            value = self._network(value, half)
        return value

    def _network(self, value: int, half: int) -> int:
        mask = (1 << half) - 1
        left, right = value >> half, value & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (mix(self.key ^ mix((number << 48) ^ right)) & mask)
        return left << half | right
