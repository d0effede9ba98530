"""What the tests of readers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources import Dead, Document, Source, read_part
from kaiyuan.corpus.sources.reading import find_parts


def read(path: Path | str, **settings: Any) -> tuple[list[Document], list[Dead]]:
    """Everything that a source gives: documents, and dead records with those that were left out."""
    source = Source(path=str(path), name=settings.pop("name", "mine"), **settings)
    items = [
        item
        for part, found in find_parts(source)
        for item in read_part(part, source.model_copy(update={"format": found}))
    ]
    return [item for item in items if isinstance(item, Document)], [item for item in items if isinstance(item, Dead)]


def reasons(dead: list[Dead]) -> list[tuple[str, str]]:
    return [(item.place, item.kind) for item in dead]
