"""Documents that share a hash, found by sorting within a limit of memory.

Hashes are uniform, so a pass takes those of one range, as wide as memory allows, for one field or for some bands
together, and sorts them. With everything in memory it is one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.dedup.records import Records
from kaiyuan.corpus.text import Hashes, Places

_BYTES = 40
"""Of memory for a hash with its number while it is sorted."""
_PAIRS = 2**18
"""Pairs that the groups of one array make at most, unless a single group makes more."""


def same_field(records: Records, field: str, kept: NDArray[np.bool_], memory: int) -> Iterator[Places]:
    """Numbers of the kept records that share a value of ``field`` (0 is none), in arrays (groups, members)."""
    for low, high in _ranges(int(kept.sum()), memory):
        hashes, numbers = [], []
        for start, table in records.slices([field]):
            values = table[field]
            mine = np.flatnonzero(kept[start : start + len(values)] & (values != 0) & _within(values, low, high))
            hashes.append(values[mine])
            numbers.append(mine + start)
        yield from _runs(_joined(hashes), _joined(numbers))


def same_band(records: Records, kept: NDArray[np.bool_], memory: int) -> Iterator[Places]:
    """The same for those that share a band of their signatures, band after band."""
    count = int(kept.sum())
    bands = records.type["bands"].shape[0]
    together = max(1, min(bands, memory // max(_BYTES * count, 1)))
    for first in range(0, bands, together):
        for low, high in _ranges(count, memory):
            columns = range(first, min(first + together, bands))
            hashes: list[list[Hashes]] = [[] for _ in columns]
            numbers: list[list[Places]] = [[] for _ in columns]
            for start, table in records.slices(["bands"]):
                alive = np.flatnonzero(kept[start : start + len(table)])
                for place, column in enumerate(columns):
                    values = table["bands"][alive, column]
                    mine = _within(values, low, high)
                    hashes[place].append(values[mine])
                    numbers[place].append((alive[mine] + start).astype(np.uint32))
            for some, theirs in zip(hashes, numbers, strict=True):
                yield from _runs(_joined(some), _joined(theirs).astype(np.int64))


def _ranges(count: int, memory: int) -> Iterator[tuple[int, int]]:
    """Ranges of 64-bit values, so many that a share of ``count`` of them fits into ``memory`` bytes."""
    parts = max(1, -(-count * _BYTES // max(memory, 1)))
    edges = [part * 2**64 // parts for part in range(parts + 1)]
    yield from pairwise(edges)


def _within(values: Hashes, low: int, high: int) -> Any:
    return (values >= np.uint64(low)) & (values <= np.uint64(high - 1))


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def _runs(hashes: Any, numbers: Any) -> Iterator[Places]:
    """Numbers of equal hashes, for hashes that occur twice or more: arrays (groups, members), one for each size."""
    order = np.argsort(hashes, kind="stable")
    hashes, numbers = hashes[order], numbers[order]
    firsts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1]))) if len(hashes) else np.zeros(0, int)
    sizes = np.diff(firsts, append=len(hashes))
    for size in np.unique(sizes[sizes > 1]).tolist():
        starts = firsts[sizes == size]
        step = max(1, _PAIRS // (size * min(size, 64)))
        for part in range(0, len(starts), step):
            yield numbers[starts[part : part + step, None] + np.arange(size)]
