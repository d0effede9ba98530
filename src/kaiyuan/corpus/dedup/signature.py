"""MinHash signatures: a document in 128 numbers, of which two documents share as many as their shingles agree.

A document is the set of its shingles: runs of 5 units where words prevail and of 8 where Han characters do. Its
signature holds 128 minima (Broder 1997; rensa computes them). Two things are kept of it: a byte of each minimum, from
which the Jaccard similarity is estimated with a standard error of at most 0.045, and a hash of each band of minima.
Only documents that agree on a band are compared at all; bands are short enough that a pair on the threshold is missed
less than once in 200 times.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.text import Hashes, Text, mixed, ngrams, pieces

MINIMA, SEED = 128, 42
WORD_SHINGLE, HAN_SHINGLE = 5, 8
_MISSED = 0.005
_CHANCE = 1 / 256
"""That the bytes of two different minima are equal."""
_STRIDE = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str) -> Hashes:
    """Hashes of the shingles of ``text``, with repetitions; one shingle if it is shorter than a shingle."""
    return of_views(map(Text, pieces(text)))


def of_views(views: Iterable[Text]) -> Hashes:
    """The same for a text in pieces that are taken apart already."""
    return np.concatenate([_of_piece(view) for view in views])


def _of_piece(view: Text) -> Hashes:
    size = HAN_SHINGLE if view.is_han else WORD_SHINGLE
    found = ngrams(view.hashes, min(size, max(len(view.hashes), 1)))
    return mixed(found) if len(found) else np.zeros(1, dtype=np.uint64)


@functools.cache
def bands(threshold: float) -> int:
    """The fewest bands (a divisor of ``MINIMA``) that miss a pair of similarity ``threshold`` with a chance under 0.5%.

    With b bands of r rows a pair of similarity s is compared with probability 1 - (1 - s^r)^b.
    """
    for count in (bands for bands in range(1, MINIMA + 1) if MINIMA % bands == 0):
        if (1 - threshold ** (MINIMA // count)) ** count <= _MISSED:
            return count
    return MINIMA


class Signer:
    """Turns sets of shingles into what is kept of their signatures."""

    def __init__(self, threshold: float) -> None:
        from rensa import RMinHash

        self.bands = bands(threshold)
        self._digests = RMinHash.digest_matrix_from_flat_token_hashes

    def sign(self, documents: list[Hashes]) -> tuple[NDArray[np.uint8], Hashes]:
        """Bytes of the minima (documents, 128) and hashes of the bands (documents, bands)."""
        ends = np.cumsum([0, *map(len, documents)])
        rows = self._digests(np.concatenate(documents), ends.astype(np.uint64), MINIMA, SEED).to_rows()
        minima = np.array(rows, dtype=np.uint64)
        sketch = (mixed(minima) & np.uint64(255)).astype(np.uint8)
        grouped = minima.reshape(len(minima), self.bands, MINIMA // self.bands)
        hashes = np.zeros(grouped.shape[:2], dtype=np.uint64)
        for row in range(grouped.shape[2]):
            hashes = mixed(hashes * _STRIDE + grouped[:, :, row])
        return sketch, hashes


def similarities(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimated Jaccard similarities of pairs of sketches (pairs, 128); chance agreements of bytes are allowed for."""
    equal = (left == right).mean(axis=-1)
    found: NDArray[np.float64] = np.maximum((equal - _CHANCE) / (1 - _CHANCE), 0.0)
    return found
