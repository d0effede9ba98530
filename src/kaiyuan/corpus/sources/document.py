"""A document, and what a reader gives where it finds none: a dead record with its place and reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any

SAMPLE = 200
"""Characters of a dead record that are kept."""


@dataclass(frozen=True)
class Document:
    """One text with what is known about it."""

    id: str
    """First 16 hexadecimal digits of the SHA-256 of ``text``."""
    text: str
    source: str
    language: str
    """ISO 639 code such as "en" or "zh"; "code" for programs; "und" if nobody has said or detected it yet."""
    label: str
    """What kind of text it is, for the mixture: "web", "books", "code", "poetry", "scripture", ..."""
    title: str = ""
    place: str = ""
    """``file:line``, ``file@byte``, ``file#record`` or ``archive!member``, relative to the root of its source."""
    url: str = ""
    licence: str = ""
    date: str = ""
    """As the source states it, ISO 8601 where the format does."""
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    """What else the source says of it: front matter, programming language, an id of its own, kept fields."""

    def row(self) -> dict[str, Any]:
        """For JSON; fields that say nothing are left out. ``Document(**row)`` is its inverse."""
        return {name: value for name in _NAMES if (value := getattr(self, name)) or name in _ALWAYS}


_NAMES = tuple(item.name for item in fields(Document))
_ALWAYS = frozenset(_NAMES[:6])


@dataclass(frozen=True)
class Dead:
    """What could not be read, or was left out on purpose (``skipped``: vendored code, a picture in a web archive)."""

    source: str
    place: str
    kind: str
    """A few words to count by: "not valid JSON", "too large", ..."""
    detail: str = ""
    sample: str = ""
    """Its first 200 characters, control characters escaped."""
    skipped: bool = False

    @property
    def reason(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind

    def row(self) -> dict[str, Any]:
        row = {"source": self.source, "place": self.place, "reason": self.reason, "sample": self.sample}
        return {**row, "skipped": True} if self.skipped else row


Item = Document | Dead


def document_id(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``text`` in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def one_line(value: object, longest: int = 200) -> str:
    """The beginning of any message on one line."""
    return " ".join(str(value).split())[:longest]


def sample_of(value: object) -> str:
    """The first 200 characters of any value, safe to print: control characters and broken bytes as escapes."""
    if isinstance(value, bytes | bytearray | memoryview):
        text = bytes(value[: 4 * SAMPLE]).decode("utf-8", "backslashreplace")
    elif isinstance(value, str):
        text = value[:SAMPLE]
    else:
        text = repr(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:SAMPLE])[:SAMPLE]
