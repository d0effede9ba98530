"""Which documents stay: of each address one, of each text one, and of each cluster of nearly equal ones the best.

Near-equal documents are taken from the best to the worst: one that is still there stays, and those that are alike to it
go, as do those alike to these, two steps at most. By the triangle inequality of Jaccard distances all of them are at
least 2t - 1 similar to the one that stays, at a threshold of t; without a limit to the steps, chains of ever less
similar documents would pull each other out. The outcome depends on the documents alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.dedup.groups import same_band, same_field
from kaiyuan.corpus.dedup.records import RANKED, Records, best_first
from kaiyuan.corpus.dedup.signature import similarities
from kaiyuan.corpus.text import Places

URL, EXACT, NEAR = 1, 2, 3
NAMES = {URL: "same URL", EXACT: "duplicate", NEAR: "near-duplicate"}
PAIRS_WITHIN = 64
"""Of a group up to this size all pairs are compared; in a larger one everybody with its 64 best."""
_CHUNK, _WAITING = 2**15, 2**20


class Decisions:
    """What becomes of each record: 0 it stays, else why it goes; and for those that go, which one stays for it."""

    def __init__(self, count: int) -> None:
        self.verdicts = np.zeros(count, dtype=np.uint8)
        self._gone: list[tuple[Places, Places, NDArray[np.float32]]] = []

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.verdicts == 0

    def drop(self, numbers: Places, keepers: Places, why: int, similarity: NDArray[np.float64]) -> None:
        self.verdicts[numbers] = why
        self._gone.append((numbers, keepers, similarity.astype(np.float32)))

    @cached_property
    def gone(self) -> tuple[Places, Places, NDArray[np.float32]]:
        """Numbers of those that go, sorted; the one that stays instead of each; their similarity (1 for equal ones)."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        numbers, keepers, similarity = (np.concatenate(parts) for parts in zip(empty, *self._gone, strict=True))
        order = np.argsort(numbers)
        return numbers[order], keepers[order], similarity[order]


def decide(
    records: Records,
    threshold: float,
    *,
    urls: bool = True,
    memory: int = 2**30,
    groups: Iterable[Places] | None = None,
) -> Decisions:
    """Decide about every record. ``threshold`` is a Jaccard similarity; ``memory`` bounds what is sorted at a time.

    ``groups`` are sets of records to compare, found elsewhere (on a cluster); by default they are found here.
    """
    decisions = Decisions(len(records))
    for name, why in (("url", URL), ("id", EXACT)) if urls else (("id", EXACT),):
        for members in same_field(records, name, decisions.kept, memory):
            _keep_the_best(records, members, decisions, why)
    found = same_band(records, decisions.kept, memory) if groups is None else _still(groups, decisions)
    _drop_near(records, *_similar_pairs(records, found, threshold), decisions)
    return decisions


def _still(groups: Iterable[Places], decisions: Decisions) -> Iterator[Places]:
    """Groups without those that are gone already."""
    for group in groups:
        for row in group:
            left = row[decisions.kept[row]]
            if len(left) > 1:
                yield left[None, :]


def _keep_the_best(records: Records, members: Places, decisions: Decisions, why: int) -> None:
    flat = members.ravel()
    order = best_first(records.take(flat, RANKED), flat)
    ranks = np.empty(len(flat), dtype=np.int64)
    ranks[order] = np.arange(len(flat))
    best = ranks.reshape(members.shape).argmin(axis=1)
    keepers = np.repeat(members[np.arange(len(members)), best], members.shape[1])
    lost = flat != keepers
    decisions.drop(flat[lost], keepers[lost], why, np.ones(int(lost.sum())))


def _similar_pairs(records: Records, groups: Iterable[Places], threshold: float) -> tuple[Places, Places]:
    """Pairs that share a group and are similar enough, each once: their lower and their higher numbers."""
    known = np.zeros(0, dtype=np.uint64)
    waiting: list[NDArray[np.uint64]] = []
    for group in groups:
        waiting.append(_pairs(records, group))
        if sum(map(len, waiting)) > _WAITING:
            known = np.union1d(known, _verified(records, waiting, known, threshold))
            waiting = []
    return _ends_of(np.union1d(known, _verified(records, waiting, known, threshold)))


def _verified(
    records: Records, waiting: list[NDArray[np.uint64]], known: NDArray[np.uint64], threshold: float
) -> NDArray[np.uint64]:
    """The pairs of ``waiting`` that are not known yet and similar enough."""
    new = np.setdiff1d(np.concatenate([known[:0], *waiting]), known)
    found = [known[:0]]
    for start in range(0, len(new), _CHUNK):
        some = new[start : start + _CHUNK]
        numbers, places = np.unique(np.concatenate(_ends_of(some)), return_inverse=True)
        sketches = records.take(numbers, ["sketch"])["sketch"]
        left, right = places[: len(some)], places[len(some) :]
        found.append(some[similarities(sketches[left], sketches[right]) >= threshold])
    return np.concatenate(found)


def _ends_of(pairs: NDArray[np.uint64]) -> tuple[Places, Places]:
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64)


def _pairs(records: Records, group: Places) -> NDArray[np.uint64]:
    """All pairs within each row, or with its best documents only, as ``lower << 32 | higher``."""
    size = group.shape[1]
    if size <= PAIRS_WITHIN:
        first, second = np.triu_indices(size, 1)
        left, right = group[:, first].ravel(), group[:, second].ravel()
    else:
        rows = [row[best_first(records.take(row, RANKED), row)] for row in group]
        left = np.concatenate([np.tile(row[:PAIRS_WITHIN], size) for row in rows])
        right = np.concatenate([np.repeat(row, PAIRS_WITHIN) for row in rows])
        left, right = left[left != right], right[left != right]
    low, high = np.minimum(left, right).astype(np.uint64), np.maximum(left, right).astype(np.uint64)
    return cast(NDArray[np.uint64], (low << np.uint64(32)) | high)


def _drop_near(records: Records, left: Places, right: Places, decisions: Decisions) -> None:
    """From the best to the worst: keep a document and drop what is within two steps of it."""
    numbers, places = np.unique(np.concatenate((left, right)), return_inverse=True)
    if not len(numbers):
        return
    by_rank = numbers[best_first(records.take(numbers, RANKED), numbers)]
    ranks = np.empty(len(numbers), dtype=np.int64)
    ranks[np.searchsorted(numbers, by_rank)] = np.arange(len(numbers))
    one, other = ranks[places[: len(left)]], ranks[places[len(left) :]]
    ends, neighbours = _neighbours(np.concatenate((one, other)), np.concatenate((other, one)), len(numbers))
    keeper = np.full(len(numbers), -1, dtype=np.int64)
    for best in range(len(numbers)):
        if keeper[best] < 0:
            keeper[best] = best
            near = neighbours[ends[best] : ends[best + 1]]
            around = [neighbours[ends[some] : ends[some + 1]] for some in near.tolist()]
            reached = np.concatenate((near, *around))
            keeper[reached[keeper[reached] < 0]] = best
    gone = np.flatnonzero(keeper != np.arange(len(numbers)))
    keepers = by_rank[keeper[gone]]
    decisions.drop(by_rank[gone], keepers, NEAR, _similarity(records, by_rank[gone], keepers))


def _neighbours(one: Places, other: Places, count: int) -> tuple[Places, Places]:
    """For each of ``count`` documents where its neighbours end in an array of all neighbours, and that array."""
    order = np.argsort(one, kind="stable")
    ends = np.concatenate(([0], np.cumsum(np.bincount(one, minlength=count))))
    return ends, other[order]


def _similarity(records: Records, left: Places, right: Places) -> NDArray[np.float64]:
    """Similarities of pairs of records."""
    found = [
        similarities(*(records.take(side[start : start + _CHUNK], ["sketch"])["sketch"] for side in (left, right)))
        for start in range(0, len(left), _CHUNK)
    ]
    return np.concatenate([np.zeros(0), *found])
