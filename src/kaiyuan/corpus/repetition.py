"""How much of a text repeats itself, measured on windows so that the answer does not depend on its length.

A book repeats every name and turn of phrase in the end; counted over the whole of it, Gopher's shares would call any
long text spam. Windows of 2000 units, at most eight evenly spaced ones, keep them comparable and cheap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

WINDOW, MAX_WINDOWS = 2000, 8


def top_ngram_share(units: Sequence[str], size: int) -> float:
    """Share of the units that the commonest ``size``-gram covers; 0 unless it occurs three times or more."""
    shares = [_top(window, size) for window in windows(units)]
    return sum(shares) / max(len(shares), 1)


def repeated_ngram_share(units: Sequence[str], size: int) -> float:
    """Share of the units in ``size``-grams that occurred before in the window; no unit counts twice."""
    shares = [_repeated(window, size) for window in windows(units)]
    return sum(shares) / max(len(shares), 1)


def windows(units: Sequence[str]) -> Iterator[Sequence[str]]:
    """Windows of at most ``WINDOW`` units, evenly spaced from the first unit to the last."""
    if len(units) <= WINDOW:
        yield units
        return
    count = min(MAX_WINDOWS, -(-len(units) // WINDOW))
    for index in range(count):
        start = index * (len(units) - WINDOW) // (count - 1)
        yield units[start : start + WINDOW]


def _top(units: Sequence[str], size: int) -> float:
    counts = Counter(zip(*(units[shift:] for shift in range(size)), strict=False))
    most = max(counts.values(), default=0)
    return size * most / len(units) if most >= 3 else 0.0


def _repeated(units: Sequence[str], size: int) -> float:
    seen: set[tuple[str, ...]] = set()
    covered = index = 0
    while index + size <= len(units):
        ngram = tuple(units[index : index + size])
        if ngram in seen:
            covered += size
            index += size
        else:
            seen.add(ngram)
            index += 1
    return covered / max(len(units), 1)
