"""How much of a text repeats itself: duplicate lines and paragraphs, the commonest n-gram, repeated n-grams.

The measures are those of Gopher (Rae et al. 2021, appendix A.1.1, table A1). Shares of n-grams are of the characters
inside units, so spaces and punctuation count on neither side.

A book repeats every name and turn of phrase in the end; counted over the whole of it, the shares would call any long
text spam. So n-grams are counted in windows, at most eight evenly spaced ones, and their shares averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.text import BASE, Hashes, Places, ngrams

WINDOW, MAX_WINDOWS = 2000, 8


def duplicate_shares(hashes: Hashes, lengths: Places) -> tuple[float, float]:
    """Share of the pieces that occurred before, and their share of the characters of all pieces."""
    again = occurred_before(hashes)
    return again.sum() / max(len(hashes), 1), lengths[again].sum() / max(lengths.sum(), 1)


def top_share(hashes: Hashes, lengths: Places, size: int, least: int = 2) -> float:
    """Share of the characters that the commonest ``size``-gram covers, all its occurrences counted.

    0 if it occurs fewer than ``least`` times. Of several that are equally common the longest counts.
    """
    grams = ngrams(hashes, size)
    ordered = np.sort(grams)
    ends = np.flatnonzero(np.concatenate((ordered[1:] != ordered[:-1], [True])))
    counts = np.diff(ends, prepend=-1)
    most = int(counts.max(initial=0))
    if most < least:
        return 0.0
    commonest = ordered[ends[counts == most]]
    places = np.flatnonzero(grams == commonest[0] if len(commonest) == 1 else np.isin(grams, commonest))
    return float(most * _spans(lengths, places, size).max() / lengths.sum())


def repeated_shares(hashes: Hashes, lengths: Places, sizes: Sequence[int]) -> Iterator[float]:
    """For each of the rising ``sizes`` the share of the characters in n-grams that occurred before, none counted twice.

    A longer n-gram can be repeated only where a shorter one is, so places that are out stay out, and most texts are
    done after the first size.
    """
    total = max(int(lengths.sum()), 1)
    grams, size = ngrams(hashes, sizes[0]), sizes[0]
    places = np.arange(len(grams))
    for wanted in sizes:
        for longer in range(size + 1, wanted + 1):
            inside = places <= len(hashes) - longer
            places, grams = places[inside], grams[inside] * BASE
            grams += hashes[places + longer - 1]
        size = wanted
        repeated, later = _shared(grams)
        if not len(repeated):
            places, grams = places[:0], grams[:0]
            yield 0.0
            continue
        covered = np.zeros(len(hashes) + 1, dtype=np.int64)
        covered[places[later]] += 1
        covered[places[later] + size] -= 1
        places, grams = places[repeated], grams[repeated]
        yield int(lengths[np.cumsum(covered[:-1]) > 0].sum()) / total


def windows(hashes: Hashes, lengths: Places, size: int = WINDOW) -> list[tuple[Hashes, Places]]:
    """Hashes and lengths in windows of at most ``size`` units, evenly spaced from the first unit to the last."""
    if len(hashes) <= size:
        return [(hashes, lengths)]
    count = min(MAX_WINDOWS, -(-len(hashes) // size))
    starts = [index * (len(hashes) - size) // (count - 1) for index in range(count)]
    return [(hashes[start : start + size], lengths[start : start + size]) for start in starts]


def occurred_before(hashes: Hashes) -> NDArray[np.bool_]:
    """Which of the values occurred before in the same array."""
    order = np.argsort(hashes, kind="stable")
    again = np.zeros(len(hashes), dtype=bool)
    again[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return again


def _shared(values: Hashes) -> tuple[Places, Places]:
    """Places of the values that occur more than once, in order, and of those that do so not for the first time."""
    ordered = np.sort(values)
    if not np.any(ordered[1:] == ordered[:-1]):
        return _NONE, _NONE
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    later = order[same + 1]
    return np.union1d(order[same], later), later


_NONE = np.zeros(0, dtype=np.int64)


def _spans(lengths: Places, places: Places, size: int) -> Places:
    sums = np.concatenate(([0], np.cumsum(lengths)))
    found: Places = sums[places + size] - sums[places]
    return found
