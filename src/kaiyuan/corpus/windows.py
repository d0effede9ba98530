"""Windows of fixed length over a label's tokens, in an order that is new in every epoch and stored nowhere."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.permutation import Permutation, key_of
from kaiyuan.corpus.shards import Shard
from kaiyuan.errors import DataError


class Windows(Protocol):
    """``count`` windows an epoch; ``draw(k)`` is the k-th window of an endless sequence of epochs."""

    count: int

    def draw(self, number: int) -> NDArray[np.int64]:
        """Tokens (length + 1,): the inputs and, shifted by one, the targets."""
        ...


class PackedWindows:
    """Windows over all tokens of a shard, across its documents.

    The tokens are a ring. Epoch e cuts it from a random token on into ``tokens // length`` windows, whose inputs
    overlap nowhere; each is drawn once, in the order of a random permutation. The fewer than ``length`` tokens left
    over, and the cuts, differ from epoch to epoch.
    """

    def __init__(self, shard: Shard, length: int, seed: int) -> None:
        if len(shard.tokens) <= length:
            raise DataError(
                f"label {shard.label!r} has {len(shard.tokens):,} tokens, fewer than one sequence of {length + 1:,}: "
                "give it more text, shorten the sequences or set its weight to 0"
            )
        self.shard, self.length, self.seed = shard, length, seed
        self.count = len(shard.tokens) // length

    def draw(self, number: int) -> NDArray[np.int64]:
        epoch, turn = divmod(number, self.count)
        window = Permutation(self.count, key_of(self.seed, "packed", self.shard.label, epoch))(turn)
        offset = key_of(self.seed, "offset", self.shard.label, epoch)
        return self._ring((offset + window * self.length) % len(self.shard.tokens))

    def _ring(self, start: int) -> NDArray[np.int64]:
        head = self.shard.tokens[start : start + self.length + 1]
        rest = self.shard.tokens[: self.length + 1 - len(head)]
        return np.concatenate([head, rest]).astype(np.int64)


class LongWindows:
    """Windows that lie within one document, over the documents of at least ``length`` tokens (and their end).

    A document of n tokens gives ``n // length`` windows; where in it they start is new in every epoch.
    """

    def __init__(self, shard: Shard, length: int, seed: int) -> None:
        self.shard, self.length, self.seed = shard, length, seed
        sizes = np.diff(shard.offsets)
        self.documents = np.flatnonzero(sizes > length)
        self._ends = np.cumsum((sizes[self.documents] - 1) // length)
        self.count = int(self._ends[-1]) if len(self._ends) else 0

    def draw(self, number: int) -> NDArray[np.int64]:
        epoch, turn = divmod(number, self.count)
        window = Permutation(self.count, key_of(self.seed, "long", self.shard.label, epoch))(turn)
        place = int(np.searchsorted(self._ends, window, side="right"))
        first = int(self._ends[place - 1]) if place else 0
        document = int(self.documents[place])
        begin, end = int(self.shard.offsets[document]), int(self.shard.offsets[document + 1])
        spare = end - begin - 1 - (int(self._ends[place]) - first) * self.length
        shift = key_of(self.seed, "shift", self.shard.label, epoch, document) % (spare + 1)
        start = begin + shift + (window - first) * self.length
        return self.shard.tokens[start : start + self.length + 1].astype(np.int64)
