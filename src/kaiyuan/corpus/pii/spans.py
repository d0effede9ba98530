"""What the detectors share: spans, folded text, and the few stretches of it that can hold a number at all."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from kaiyuan.errors import KaiyuanError

NO_DIGIT_BEFORE = r"(?<![0-9])(?<![0-9]\.)"
NO_DIGIT_AFTER = r"(?![0-9])(?!\.[0-9])"


class Finding(NamedTuple):
    """One personal datum: ``text[start:end]``."""

    start: int
    end: int
    kind: str
    """"email", "phone", "id", "passport", "ssn", "card", "iban", "ip", "secret", "plate" or "name"."""
    rule: str
    """The pattern that found it, such as "cn-18" or "aws-key"."""


class Span(NamedTuple):
    """What a detector yields; the kind is its own."""

    start: int
    end: int
    rule: str


_KEPT = "：，；！？"
_FOLDED = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in _KEPT}
_FOLDED |= dict.fromkeys("‐‑‒–−﹣", "-") | {"﹢": "+", "﹫": "@", "\u3000": " ", "\u00a0": " "}
_WIDE = re.compile(f"[{''.join(map(re.escape, _FOLDED))}]")


def fold(text: str) -> str:
    """Full-width signs, digits and letters, dashes and wide spaces as ASCII; a character stays one character.

    So what is found in the folded text lies at the same place in ``text``. The punctuation of Chinese sentences stays.
    """
    return text if text.isascii() else _WIDE.sub(lambda match: _FOLDED[match[0]], text)


def fill(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """``text`` with every span (in order, none overlapping) replaced by its third entry."""
    pieces, position = [], 0
    for start, end, filling in spans:
        pieces += [text[position:start], filling]
        position = end
    return "".join([*pieces, text[position:]]) if pieces else text


def blank(text: str, spans: Sequence[Span]) -> str:
    """``text`` with ``\\0`` for what is found, so that no later detector takes any of it."""
    return fill(text, ((start, end, "\0" * (end - start)) for start, end, _ in spans))


_CLUSTER = re.compile(r"[0-9](?:[0-9]{0,2}\.[0-9]{1,3}\.[0-9]|(?:[-. ()]{0,3}[0-9]){6})")
_REACH = 48
"""An IBAN in groups of four takes 42 characters; no number that starts or ends further from seven digits is one."""


class Zones:
    """The stretches that hold seven digits with no more than separators between, or the start of an IPv4 address.

    Scanning for them once and running the patterns in there alone is what makes the detectors fast: most text has
    none. They depend on nothing but digits, so they hold while detectors blank what they find.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for match in _CLUSTER.finditer(self._text):
            start, end = max(0, match.start() - _REACH), min(len(self._text), match.end() + _REACH)
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found

    def matches(self, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
        """Matches of ``pattern`` in every zone; lookarounds see the text outside, too, save past a zone's end."""
        for start, end in self.spans:
            yield from pattern.finditer(text, start, end)


def before(pattern: re.Pattern[str], text: str, start: int, reach: int = 24) -> bool:
    """Whether ``pattern``, which ends in ``$``, matches right before ``start``, within ``reach`` characters."""
    return pattern.search(text, max(0, start - reach), start) is not None


_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def in_hexadecimal(text: str, start: int, end: int) -> bool:
    """Whether the digits of a match are part of a hash: at least 32 hexadecimal digits in a row."""
    if not _HEX_DIGITS.issuperset(text[start:end]):
        return False
    left, right = start, end
    while left > 0 and start - left < 32 and text[left - 1] in _HEX_DIGITS:
        left -= 1
    while right < len(text) and right - end < 32 and text[right] in _HEX_DIGITS:
        right += 1
    return right - left >= 32


def places(text: str, words: Iterable[str]) -> list[tuple[int, int]]:
    """Start and end of every occurrence of any of ``words``, in order."""
    found = []
    for word in words:
        at = text.find(word)
        while at >= 0:
            found.append((at, at + len(word)))
            at = text.find(word, at + 1)
    return sorted(found)


def library(module: str) -> Any:
    """The module of an optional library, or a ``KaiyuanError`` that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise
        needed = "python-stdnum" if module.startswith("stdnum") else module
        raise KaiyuanError(f"finding personal data needs {needed}: pip install 'kaiyuan[corpus]'") from None
