"""Labelled documents: rows with a text, its language and some of quality, educational, toxicity (0 to 5), category."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.corpus.language import detect
from kaiyuan.corpus.scores.scorer import BINARY, CATEGORY
from kaiyuan.corpus.sources.document import document_id
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl

POSITIVE = 3
"""A grade from here on counts as yes: what FineWeb-Edu (Penedo et al. 2024) keeps."""
HIGHEST = 5


@dataclass(frozen=True)
class Labelled:
    """A text and what is known of it."""

    text: str
    language: str
    grades: dict[str, int]
    """0 to 5 by dimension."""
    category: str = ""
    """``domain/topic``; "" if nobody has said."""

    def row(self) -> dict[str, Any]:
        row = {"text": self.text, "language": self.language, **self.grades}
        return {**row, CATEGORY: self.category} if self.category else row

    @property
    def part(self) -> int:
        """0 to 19 by the hash of the text: what a document is used for does not depend on the others."""
        return int(document_id(self.text), 16) % 20


def read_labels(path: Path) -> list[Labelled]:
    """The rows of a JSON Lines file; a ``DataError`` names the first line that cannot be used."""
    return [labelled(row, f"{path}: row {number}") for number, row in enumerate(read_jsonl(path), 1)]


def labelled(row: Any, where: str) -> Labelled:
    """A row as it stands in a file of labels."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise DataError(f'{where}: expected {{"text": "...", ...}}')
    grades = {name: row[name] for name in BINARY if row.get(name) is not None}
    for name, grade in grades.items():
        if isinstance(grade, bool) or not isinstance(grade, int) or not 0 <= grade <= HIGHEST:
            raise DataError(f"{where}: {name}: {grade!r} is not a whole number from 0 to {HIGHEST}")
    category = row.get(CATEGORY) or ""
    if category and (not isinstance(category, str) or category.count("/") != 1 or not all(category.split("/"))):
        raise DataError(f"{where}: category: {category!r} is not of the form domain/topic")
    if not grades and not category:
        raise DataError(f"{where}: no label; give some of {', '.join((*BINARY, CATEGORY))}")
    return Labelled(row["text"], row.get("language") or detect(row["text"])[0], grades, category)


def unique(rows: Iterable[Labelled]) -> list[Labelled]:
    """Each text once, in the order of their hashes: the model does not depend on the order of a file."""
    return [row for _, row in sorted({document_id(row.text): row for row in rows}.items())]
