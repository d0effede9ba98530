"""A text as arrays: its units and lines with their places, lengths and hashes, all found by vector operations.

Rules, near-duplicates, repeated lines and contamination all ask the same questions of a text (which runs of units
occur where, how long is a line, how does it end), so the text is taken apart once and each of them is a few numpy
calls on the result. What a unit is stands in ``kaiyuan.corpus.units``, of which this is the fast form.

A piece of text is known by a 64-bit hash: the polynomial of its code points in a fixed odd base modulo 2^64, mixed.
From running sums the hash of any piece comes by one subtraction and one multiplication, and it is the same on every
machine and in every process.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.units import HAN, KANA, WORD

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

LONGEST = 2**20
"""Characters of one ``Text``; longer ones are taken in pieces, so that memory stays within some 60 MB."""

_WORD, SINGLE, _SPACE, LETTER, _APOSTROPHE, _END, _CLOSING, _BULLET, _SYMBOL, _RUN, GARBAGE = (
    np.uint16(1 << bit) for bit in range(11)
)
_BEYOND = 0x20000
BASE, _INVERSE = np.uint64(0x9E3779B97F4A7C15), np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))

TERMINAL = ".!?。！？…؟।։｡．"
"""What a sentence ends with."""
_CLOSERS = "\"'”’»)]}）】」』》〉"


class Text:
    """At most ``LONGEST`` characters of text in small letters, taken apart. Places count characters of ``lower``."""

    def __init__(self, text: str) -> None:
        self.lower = text.lower()
        self.codes = np.frombuffer(self.lower.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        self.flags = _flags(self.codes)

    def is_(self, flag: np.uint16) -> NDArray[np.bool_]:
        return (self.flags & flag) != 0

    @cached_property
    def _spans(self) -> tuple[Places, Places]:
        single, word = self.is_(SINGLE), self.is_(_WORD)
        padded = np.zeros(len(word) + 2, dtype=bool)
        padded[1:-1] = word
        if (apostrophe := self.is_(_APOSTROPHE)).any():
            padded[1:-1] |= apostrophe & padded[:-2] & padded[2:]
        word = padded[1:-1]
        starts = np.flatnonzero(single | (word & ~padded[:-2]))
        ends = np.flatnonzero(single | (word & ~padded[2:])) + 1
        return starts, ends

    @property
    def starts(self) -> Places:
        """Where each unit begins."""
        return self._spans[0]

    @property
    def ends(self) -> Places:
        """Where each unit ends: the place after its last character."""
        return self._spans[1]

    @cached_property
    def lengths(self) -> Places:
        """Characters of each unit."""
        return self.ends - self.starts

    @cached_property
    def hashes(self) -> Hashes:
        """A hash of each unit."""
        return self.hash(self.starts, self.ends)

    @cached_property
    def singles(self) -> int:
        """How many units are Han characters or kana."""
        return int(np.count_nonzero(self.is_(SINGLE)))

    @cached_property
    def is_han(self) -> bool:
        """Whether most units are Han characters or kana."""
        return 2 * self.singles >= len(self.starts) > 0

    @cached_property
    def visible(self) -> int:
        """Number of characters that are not spaces, at least 1."""
        return max(1, len(self.codes) - int(np.count_nonzero(self.is_(_SPACE))))

    @cached_property
    def letters(self) -> int:
        """Number of letters of any script."""
        return int(np.count_nonzero(self.is_(LETTER)))

    @cached_property
    def symbols(self) -> int:
        """Hashes, box characters and stars, ellipses, and runs of two or more of the likes of ``|`` and ``=``."""
        run = np.concatenate((np.zeros(2, dtype=bool), self.is_(_RUN)))
        runs = int(np.count_nonzero(run[2:] & run[1:-1] & ~run[:-2])) if run.any() else 0
        dots = self.codes == 0x2026
        ellipses = self.lower.count("...") + int(np.count_nonzero(dots[1:] & ~dots[:-1])) + int(dots[:1].sum())
        return int(np.count_nonzero(self.is_(_SYMBOL))) + runs + ellipses

    @cached_property
    def sentences(self) -> int:
        """How many sentences end: at the last of some marks in a row, if no letter follows it without a space."""
        ends = np.flatnonzero(self.is_(_END))
        after = np.append(self.flags, _SPACE)[ends + 1]
        free = (after & (_SPACE | _CLOSING)) != 0
        return int(np.count_nonzero((free | (self.codes[ends] > 0x2FFF)) & ((after & _END) == 0)))

    @cached_property
    def lines(self) -> Lines:
        return Lines(self)

    @cached_property
    def _sums(self) -> Hashes:
        sums = np.zeros(len(self.codes) + 1, dtype=np.uint64)
        np.cumsum((self.codes + np.uint32(1)) * _powers(len(self.codes))[0], out=sums[1:])
        return sums

    def hash(self, starts: Places, ends: Places) -> Hashes:
        """Hashes of the pieces from ``starts`` up to ``ends``; equal pieces have equal hashes."""
        inverses = _powers(len(self.codes))[1]
        return mixed((self._sums[ends] - self._sums[starts]) * inverses[starts])

    def units(self) -> list[str]:
        """The units in small letters, as ``kaiyuan.corpus.units.units`` gives them."""
        return [self.lower[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


class Lines:
    """The lines of a text that are not blank, without the spaces around them."""

    def __init__(self, text: Text) -> None:
        self.text = text
        breaks = np.flatnonzero(text.codes == 10)
        begins = np.concatenate(([0], breaks + 1))
        stops = np.concatenate((breaks, [len(text.codes)]))
        visible = np.flatnonzero(~text.is_(_SPACE))
        first, last = np.searchsorted(visible, begins), np.searchsorted(visible, stops)
        full = first < last
        self.numbers: Places = np.flatnonzero(full)
        """Which of all lines these are, counted from 0."""
        self.starts: Places = visible[first[full]] if len(visible) else np.zeros(0, np.int64)
        self.ends: Places = visible[last[full] - 1] + 1 if len(visible) else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def lengths(self) -> Places:
        """Characters of each line."""
        return self.ends - self.starts

    @cached_property
    def hashes(self) -> Hashes:
        return self.text.hash(self.starts, self.ends)

    @cached_property
    def units(self) -> Places:
        """How many units begin in each line."""
        found: Places = np.searchsorted(self.text.starts, self.ends) - np.searchsorted(self.text.starts, self.starts)
        return found

    @cached_property
    def ended(self) -> NDArray[np.bool_]:
        """Whether a line ends with punctuation that ends a sentence; closing quotes and brackets may follow it."""
        flags, last = self.text.flags, self.ends - 1
        before = np.maximum(last - 1, self.starts)
        closing = (flags[last] & _CLOSING) != 0
        return ((flags[last] & _END) != 0) | (closing & ((flags[before] & _END) != 0))

    @cached_property
    def quoted(self) -> NDArray[np.bool_]:
        """Whether a line ends with a closing quote or bracket."""
        return (self.text.flags[self.ends - 1] & _CLOSING) != 0

    @cached_property
    def trailing_off(self) -> NDArray[np.bool_]:
        """Whether a line ends in an ellipsis."""
        codes, last = self.text.codes, self.ends - 1
        dots = (self.lengths >= 3) & (codes[last] == 46)
        for back in (1, 2):
            dots &= codes[np.maximum(last - back, 0)] == 46
        return dots | (codes[last] == 0x2026)

    @cached_property
    def bulleted(self) -> NDArray[np.bool_]:
        """Whether a line begins with a bullet or a number such as ``3.`` or ``12)``."""
        bullet = (self.text.flags[self.starts] & _BULLET) != 0
        for line in np.flatnonzero(bullet).tolist():
            bullet[line] = _ITEM.match(self.text.lower, self.starts[line]) is not None
        return bullet

    @cached_property
    def paragraphs(self) -> tuple[Places, Places]:
        """Starts and ends of the paragraphs: lines with no blank line between them."""
        first = np.ones(len(self), dtype=bool)
        first[1:] = np.diff(self.numbers) > 1
        last = np.ones(len(self), dtype=bool)
        last[:-1] = first[1:]
        return self.starts[first], self.ends[last]


_ITEM = re.compile(r"[-*•·●◦▪■◆]\s|[0-9]{1,3}[.)、]\s?")


def pieces(text: str, longest: int = LONGEST) -> Iterator[str]:
    """``text`` in pieces of at most ``longest`` characters, cut after a line or, if there is none, a space."""
    start = 0
    while len(text) - start > longest:
        stop = max(text.rfind("\n", start, start + longest), text.rfind(" ", start + longest // 2, start + longest)) + 1
        stop = stop if stop > start else start + longest
        yield text[start:stop]
        start = stop
    yield text[start:]


def sample(text: str, longest: int = LONGEST, count: int = 4) -> str:
    """``text`` itself, or ``count`` evenly spaced pieces of one that is longer than ``longest``."""
    if len(text) <= longest:
        return text
    size = longest // count - 1
    step = (len(text) - size) // (count - 1)
    return "\n".join(text[start : start + size] for start in range(0, step * count, step))


def ngrams(hashes: Hashes, size: int) -> Hashes:
    """Hashes of all runs of ``size`` units, not yet mixed; none if there are fewer units."""
    count = len(hashes) - size + 1
    if count <= 0:
        return hashes[:0]
    found = hashes[:count].copy()
    for shift in range(1, size):
        found *= BASE
        found += hashes[shift : shift + count]
    return found


def mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Hashes = values ^ (values >> np.uint64(31))
    return found


def _flags(codes: NDArray[np.uint32]) -> NDArray[np.uint16]:
    table = _table()
    if len(codes) and int(codes.max()) >= _BEYOND:
        # Planes 2 and 3 hold Han characters, planes 15 and 16 are for private use; in between nothing counts.
        kinds = _BEYOND + np.searchsorted(np.array([0x31350, 0xF0000]), codes, side="right")
        codes = np.where(codes < _BEYOND, codes, kinds).astype(np.uint32)
    found: NDArray[np.uint16] = table[codes]
    return found


@functools.cache
def _table() -> NDArray[np.uint16]:
    """What each code point is, as flags."""
    table = np.zeros(_BEYOND + 3, dtype=np.uint16)
    characters = [chr(code) for code in range(_BEYOND)]
    whole = "".join(characters)
    table[[match.start() for match in re.finditer(f"[{WORD}]", whole)]] |= _WORD
    singles = [match.start() for match in re.finditer(f"[{HAN}{KANA}]", whole)]
    table[singles] |= SINGLE
    table[singles] &= ~_WORD
    table[[code for code, character in enumerate(characters) if character.isspace()]] |= _SPACE
    table[[code for code, character in enumerate(characters) if character.isalpha()]] |= LETTER
    for marks, flag in (("'’", _APOSTROPHE), (TERMINAL, _END), (_CLOSERS, _CLOSING),
                        ("-*•·●◦▪■◆0123456789", _BULLET), ("#■□◆◇★☆●○►▼▲※", _SYMBOL),
                        ("|\\^~<>=_", _RUN)):  # fmt: skip
        table[[ord(mark) for mark in marks]] |= flag
    table[0xE000:0xF900] |= GARBAGE  # for private use
    table[0xFFFD] |= GARBAGE
    table[_BEYOND] = SINGLE | LETTER
    table[_BEYOND + 2] = GARBAGE
    return table


_grown: dict[str, tuple[Hashes, Hashes]] = {}


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The first powers of the base and of its inverse modulo 2^64, ``count`` or more of them."""
    have = _grown.get("powers")
    if have is None or len(have[0]) < count:
        size = max(2**14, 1 << (count - 1).bit_length())
        have = _grown["powers"] = (_geometric(BASE, size), _geometric(_INVERSE, size))
    return have[0][:count], have[1]


def _geometric(base: Any, size: int) -> Hashes:
    factors = np.full(size, base, dtype=np.uint64)
    factors[0] = 1
    found: Hashes = np.cumprod(factors)
    return found
