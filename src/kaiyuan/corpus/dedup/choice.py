"""Which documents stay: of each address one, of each text one, and no two that are nearly equal.

Near-equal documents are taken from the best to the worst, and one is dropped if one that stays is at least as similar
as the threshold says. So the best of a cluster always stays, whatever was dropped has its like among what stays (chains
of ever less similar documents do not pull each other out), and the outcome depends on the documents alone.
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
_CHUNK = 2**15


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


def _similar_pairs(
    records: Records, groups: Iterable[Places], threshold: float
) -> tuple[Places, Places, NDArray[np.float64]]:
    """Pairs that share a group and are similar enough: lower numbers, higher numbers, similarities; each pair once."""
    keys = np.zeros(0, dtype=np.uint64)
    shares = np.zeros(0, dtype=np.float64)
    waiting: list[NDArray[np.uint64]] = []
    for group in groups:
        waiting.append(_pairs(records, group))
        if sum(map(len, waiting)) > 2**20:
            keys, shares = _verified(records, waiting, keys, shares, threshold)
            waiting = []
    keys, shares = _verified(records, waiting, keys, shares, threshold)
    return (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(2**32 - 1)).astype(np.int64), shares


def _verified(
    records: Records, waiting: list[NDArray[np.uint64]], keys: NDArray[np.uint64], shares: NDArray[np.float64],
    threshold: float,
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:  # fmt: skip
    """The known pairs with those of ``waiting`` that are new and similar enough."""
    new = np.unique(np.concatenate(waiting or [keys[:0]]))
    new = new[~np.isin(new, keys)] if len(keys) else new
    for start in range(0, len(new), _CHUNK):
        some = new[start : start + _CHUNK]
        left, right = (some >> np.uint64(32)).astype(np.int64), (some & np.uint64(2**32 - 1)).astype(np.int64)
        numbers, places = np.unique(np.concatenate((left, right)), return_inverse=True)
        sketches = records.take(numbers, ["sketch"])["sketch"]
        similarity = similarities(sketches[places[: len(left)]], sketches[places[len(left) :]])
        similar = similarity >= threshold
        keys, shares = np.concatenate((keys, some[similar])), np.concatenate((shares, similarity[similar]))
    return keys, shares


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


def _drop_near(
    records: Records, left: Places, right: Places, similarity: NDArray[np.float64], decisions: Decisions
) -> None:
    """From the best to the worst: a document goes if a neighbour that stays came before it."""
    numbers, places = np.unique(np.concatenate((left, right)), return_inverse=True)
    if not len(numbers):
        return
    ranks = np.empty(len(numbers), dtype=np.int64)
    ranks[best_first(records.take(numbers, RANKED), numbers)] = np.arange(len(numbers))
    one, other = ranks[places[: len(left)]], ranks[places[len(left) :]]
    worse, better = np.maximum(one, other), np.minimum(one, other)
    order = np.lexsort((better, worse))
    stays = np.ones(len(numbers), dtype=bool)
    keeper, share = np.full(len(numbers), -1, dtype=np.int64), np.zeros(len(numbers))
    for a, b, s in zip(worse[order].tolist(), better[order].tolist(), similarity[order].tolist(), strict=True):
        if stays[b] and s > share[a]:
            stays[a], keeper[a], share[a] = False, b, s
    by_rank = np.empty(len(numbers), dtype=np.int64)
    by_rank[ranks] = numbers
    gone = np.flatnonzero(~stays)
    decisions.drop(by_rank[gone], by_rank[keeper[gone]], NEAR, share[gone])
