"""Near-duplicates by MinHash and locality-sensitive hashing; of each group the first document stays.

A document is the set of its shingles: runs of 5 units where words prevail and of 8 where Han characters do. Its
signature holds 128 minima; two documents are duplicates if the share of equal minima, an estimate of the Jaccard
similarity with a standard error of at most 0.045, reaches the threshold. Only documents that agree on one band of the
signature are compared at all; bands are short enough that a pair on the threshold is missed less than once in 200
times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaiyuan.corpus.units import han_characters, units
from kaiyuan.errors import DataError

if TYPE_CHECKING:
    from rensa import RMinHash

    from kaiyuan.corpus.sources import Document

MINIMA, SEED = 128, 42
WORD_SHINGLE, HAN_SHINGLE = 5, 8
_MISSED = 0.005


@dataclass(frozen=True)
class Duplicate:
    """A dropped document, the kept one most like it, and their estimated Jaccard similarity (1.0: the same id)."""

    dropped: str
    kept: str
    similarity: float


def shingles(text: str) -> list[str]:
    """The shingles of ``text``, lower-cased, with repetitions; one shingle if it is shorter than a shingle."""
    found = units(text.lower())
    size = HAN_SHINGLE if 2 * han_characters(text) >= len(found) else WORD_SHINGLE
    if len(found) <= size:
        return [" ".join(found)]
    return [" ".join(found[start : start + size]) for start in range(len(found) - size + 1)]


def bands(threshold: float) -> int:
    """The fewest bands (a divisor of ``MINIMA``) that miss a pair of similarity ``threshold`` with a chance under 0.5%.

    With b bands of r rows a pair of similarity s is compared with probability 1 - (1 - s^r)^b.
    """
    for count in (bands for bands in range(1, MINIMA + 1) if MINIMA % bands == 0):
        if (1 - threshold ** (MINIMA // count)) ** count <= _MISSED:
            return count
    return MINIMA


class Deduplicator:
    """Takes documents one at a time and remembers the signatures (about 4 kB each) of those it let pass."""

    def __init__(self, threshold: float = 0.8) -> None:
        from rensa import RMinHashLSH

        if not 0.0 < threshold <= 1.0:
            raise DataError(f"deduplication threshold: {threshold} is not above 0 and at most 1")
        self.threshold = threshold
        self._index = RMinHashLSH(threshold, MINIMA, bands(threshold))
        self._ids: list[str] = []
        self._signatures: list[RMinHash] = []
        self._seen: dict[str, str] = {}

    def add(self, document: Document) -> Duplicate | None:
        """``None`` if the document is new (it is then remembered), else what it duplicates."""
        if document.id in self._seen:
            return Duplicate(document.id, self._seen[document.id], 1.0)
        signature = _signature(document.text)
        near = [(signature.jaccard(self._signatures[key]), -key) for key in self._index.query(signature)]
        similarity, key = max(near, default=(0.0, 0))
        if similarity >= self.threshold:
            self._seen[document.id] = self._ids[-key]
            return Duplicate(document.id, self._ids[-key], similarity)
        self._seen[document.id] = document.id
        self._index.insert(len(self._ids), signature)
        self._ids.append(document.id)
        self._signatures.append(signature)
        return None


def _signature(text: str) -> RMinHash:
    from rensa import RMinHash

    signature = RMinHash(MINIMA, SEED)
    signature.update(shingles(text))
    return signature


def deduplicate(documents: Iterable[Document], threshold: float = 0.8) -> tuple[list[Document], list[Duplicate]]:
    """``(kept, dropped)``: in the order of ``documents``, each kept unless it duplicates one kept before it."""
    deduplicator = Deduplicator(threshold)
    kept, dropped = [], []
    for document in documents:
        duplicate = deduplicator.add(document)
        if duplicate is None:
            kept.append(document)
        else:
            dropped.append(duplicate)
    return kept, dropped
