"""Pages of the KV cache: who holds which, and which hold a prefix that someone may ask for again.

A block has room for ``size`` tokens of every producing layer. A full block whose tokens are computed is known by a
hash of everything up to its end; a new request that begins with the same tokens takes the block instead of computing
it. A block that nobody holds stays known until its room is needed: the one unused for longest goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class OutOfBlocks(Exception):
    """Fewer blocks can be had than are asked for."""


class BlockPool:
    """``count`` blocks of ``size`` tokens with reference counts."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._holders = [0] * count
        self._hash: list[bytes | None] = [None] * count
        self._known: dict[bytes, int] = {}
        self._blank: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        """Unused blocks without known content."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Unused blocks with known content, the longest unused first."""

    @property
    def free(self) -> int:
        """Blocks that can be had now."""
        return len(self._blank) + len(self._idle)

    @property
    def used(self) -> int:
        return self.count - self.free

    def take(self, wanted: int, after: int | None = None) -> list[int]:
        """``wanted`` blocks, held once; raises ``OutOfBlocks`` and takes none if there are not so many.

        Each is the neighbour of the one before (of ``after`` at first) where that is free: a sequence that lies in one
        piece is read without copying.
        """
        if wanted > self.free:
            raise OutOfBlocks
        taken: list[int] = []
        last = after
        for _ in range(wanted):
            last = self._next(last)
            self._holders[last] = 1
            taken.append(last)
        return taken

    def _next(self, after: int | None) -> int:
        block = self._roomiest() if after is None else after + 1
        if block in self._blank:
            del self._blank[block]
            return block
        if self._blank:
            return self._blank.popitem(last=False)[0]
        block, _ = self._idle.popitem(last=False)
        self._forget(block)
        return block

    def _roomiest(self) -> int:
        """Where a new sequence and the one before it have most room to grow: the middle of the longest blank run."""
        if len(self._blank) in (0, self.count):
            return 0
        blank = np.zeros(self.count + 2, dtype=np.int8)
        blank[np.fromiter(self._blank, dtype=np.int64) + 1] = 1
        edges = np.diff(blank)
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        longest = int((ends - starts).argmax())
        start, end = int(starts[longest]), int(ends[longest])
        return start if start == 0 else (start + end) // 2

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one hold of each. The later ones are reused first: a prefix is worth more the earlier it is."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                (self._blank if self._hash[block] is None else self._idle)[block] = None

    def learn(self, block: int, digest: bytes) -> None:
        """What a full block holds. If another block is known to hold the same, that one stays the known one."""
        if self._hash[block] is None and digest not in self._known:
            self._hash[block] = digest
            self._known[digest] = block

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """The known blocks for the longest beginning of ``digests``, each held once more."""
        found: list[int] = []
        for digest in digests:
            block = self._known.get(digest)
            if block is None:
                break
            self._idle.pop(block, None)
            self._holders[block] += 1
            found.append(block)
        return found

    def _forget(self, block: int) -> None:
        digest = self._hash[block]
        if digest is not None:
            del self._known[digest]
            self._hash[block] = None


def block_digests(tokens: Sequence[int], size: int, salt: str, known: Sequence[bytes] = ()) -> list[bytes]:
    """A hash for every full block of ``tokens``, each over all tokens up to the block's end.

    Requests with different ``salt`` (tenants) never share a block. ``known`` are the first digests, from an earlier
    call.
    """
    digests = list(known)
    before = digests[-1] if digests else hashlib.blake2b(salt.encode("utf-8"), digest_size=16).digest()
    for start in range(len(digests) * size, len(tokens) - size + 1, size):
        content = array("q", tokens[start : start + size]).tobytes()
        before = hashlib.blake2b(before + content, digest_size=16).digest()
        digests.append(before)
    return digests
