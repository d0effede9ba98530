"""What an extractor finds in a text: a question, its answer, and where they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One (instruction, response) pair of a document."""

    question: str
    answer: str
    start: int
    """First character of the question in the document's text."""
    end: int
    """Behind the last character of the answer."""
    method: str


@dataclass(frozen=True)
class Block:
    """A piece of a text from ``start`` to ``end``, led by a mark such as "Q:" or a heading."""

    head: str
    body: str
    start: int
    end: int
    level: int = 0


HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?(?:^\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[Block]:
    """The sections of a Markdown text, each to the next heading of any level; what stands in code is no heading."""
    fences = [found.span() for found in _FENCE.finditer(text)]
    marks = [
        found for found in HEADING.finditer(text)
        if not any(start <= found.start() < end for start, end in fences)
    ]  # fmt: skip
    ends = [*(found.start() for found in marks[1:]), len(text)]
    return [
        Block(found[2].strip(), text[found.end() : end], found.start(), end, len(found[1]))
        for found, end in zip(marks, ends, strict=False)
    ]


def tidy(text: str) -> str:
    """Without blank lines around it, marks of emphasis around the whole, and trailing spaces."""
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    text = "\n".join(lines).strip()
    found = re.fullmatch(r"(\*\*|__)([^*_\n]+)\1", text)
    return found[2].strip() if found else text


def end_of(text: str, start: int, end: int) -> int:
    """``end`` without the white space before it."""
    return start + len(text[start:end].rstrip())
