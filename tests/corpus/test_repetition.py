"""Measures of repetition against brute force over lists of strings, and against datatrove's."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from kaiyuan.corpus.repetition import WINDOW, duplicate_shares, repeated_shares, top_share, windows
from kaiyuan.corpus.text import Text


def brute_top(units: list[str], size: int, least: int = 2) -> float:
    counts = Counter(tuple(units[i : i + size]) for i in range(len(units) - size + 1))
    most = max(counts.values(), default=0)
    longest = max((len("".join(gram)) for gram, count in counts.items() if count == most), default=0)
    return most * longest / len("".join(units)) if most >= least else 0.0


def brute_repeated(units: list[str], size: int) -> float:
    seen, covered = set(), set()
    for start in range(len(units) - size + 1):
        gram = tuple(units[start : start + size])
        if gram in seen:
            covered.update(range(start, start + size))
        seen.add(gram)
    return sum(len(units[place]) for place in covered) / len("".join(units))


def brute_duplicates(lines: list[str]) -> tuple[float, float]:
    again = [line for number, line in enumerate(lines) if line in lines[:number]]
    return len(again) / len(lines), sum(map(len, again)) / sum(map(len, lines))


def texts() -> list[str]:
    rng = random.Random(5)
    words = ["the", "river", "mill", "a", "of", "don't", "bridge", "水", "山", "10", "naïve"]
    found = ["\n".join(" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 60)))
             for _ in range(60)]  # fmt: skip
    found += [" ".join(rng.choices(words[:3], k=rng.randint(5, 80))) for _ in range(30)]
    return [*found, "天地玄黄，宇宙洪荒。天地玄黄。" * 3, "a", "one two three four five six seven"]


@pytest.mark.parametrize("text", texts())
def test_shares_are_those_of_brute_force(text: str) -> None:
    taken = Text(text)
    units = taken.units()
    for size in (2, 3, 4):
        assert top_share(taken.hashes, taken.lengths, size) == pytest.approx(brute_top(units, size))
    found = list(repeated_shares(taken.hashes, taken.lengths, range(2, 11)))
    assert found == pytest.approx([brute_repeated(units, size) for size in range(2, 11)])
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert duplicate_shares(taken.lines.hashes, taken.lines.lengths) == pytest.approx(brute_duplicates(lines))


def test_against_datatrove() -> None:
    """Its functions on the same units; it jumps over what it has counted, so its shares may be a little smaller."""
    peer = pytest.importorskip("datatrove.pipeline.filters.gopher_repetition_filter")
    compared = 0
    for text in texts():
        taken = Text(text)
        units = taken.units()
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        elements, characters = peer.find_duplicates(lines)
        expected = (elements / len(lines), characters / sum(map(len, lines)))
        assert duplicate_shares(taken.lines.hashes, taken.lines.lengths) == pytest.approx(expected)
        total = len("".join(units))
        for size, share in zip(range(5, 11), repeated_shares(taken.hashes, taken.lengths, range(5, 11)), strict=True):
            theirs = peer.find_all_duplicate(units, size) / total
            assert theirs - 1e-9 <= share <= theirs + 0.35
            assert (share == 0) == (theirs == 0)
            compared += share > 0
    assert compared > 50


def shares(text: str, size: int) -> tuple[float, float]:
    taken = Text(text)
    return top_share(taken.hashes, taken.lengths, size, 3), next(repeated_shares(taken.hashes, taken.lengths, [size]))


def test_against_hand_counts() -> None:
    assert shares("a b a b a b c d", 2)[0] == 6 / 8
    assert shares("a b a b c d e f", 2)[0] == 0.0  # twice is no pattern
    assert shares("a b c a b c x", 3)[1] == 3 / 7
    assert shares("a a a a a a a", 2)[1] == 6 / 7
    assert shares("a b c d e f g", 3)[1] == 0.0
    assert shares("", 2) == (0.0, 0.0)


def test_windows_span_the_text() -> None:
    taken = Text(" ".join(f"w{number}" for number in range(10 * WINDOW + 7)))
    found = windows(taken.hashes, taken.lengths)
    assert len(found) == 8
    assert found[0][0][0] == taken.hashes[0]
    assert found[-1][0][-1] == taken.hashes[-1]
    assert all(len(hashes) == len(lengths) == WINDOW for hashes, lengths in found)
    ((hashes, _),) = windows(taken.hashes[:WINDOW], taken.lengths[:WINDOW])
    assert np.array_equal(hashes, taken.hashes[:WINDOW])


def test_a_long_book_is_not_called_repetitive() -> None:
    """Every 5-gram of this text occurs before, 3000 units earlier: farther apart than a window."""
    taken = Text(" ".join(f"w{number % 3000:04d}" for number in range(30_000)))
    assert all(next(repeated_shares(*window, [5])) == 0.0 for window in windows(taken.hashes, taken.lengths))
    assert next(repeated_shares(taken.hashes, taken.lengths, [5])) == pytest.approx(0.9)
