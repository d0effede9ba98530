"""Text of PDF files, page by page, one document a file. Optional: pages that are pictures have none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from kaiyuan.corpus.sources.document import Item, one_line
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.errors import DataError

MAX_PAGES = 20_000


def read(part: Part, source: Source) -> Iterator[Item]:
    if part.size > source.largest:
        yield source.dead(part.name, "too large", f"{part.size:,} bytes, at most {source.largest:,}")
        return
    try:
        from pypdf import PdfReader
    except ImportError:
        raise DataError(f"{part.path}: reading PDF needs pypdf: pip install 'kaiyuan[corpus]'") from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    # A damaged PDF makes the parser fail in any of many ways, and each means the same: this file cannot be read.
    try:
        reader = PdfReader(part.path)
        if reader.is_encrypted and not reader.decrypt(""):
            yield source.dead(part.name, "encrypted", "needs a password")
            return
        yield _document(reader, part, source)
    except Exception as error:
        detail = f"{type(error).__name__}: {one_line(error)}"
        yield source.dead(part.name, "damaged file", detail)


def _document(reader: Any, part: Part, source: Source) -> Item:
    if len(reader.pages) > MAX_PAGES:
        return source.dead(part.name, "too large", f"{len(reader.pages):,} pages, at most {MAX_PAGES:,}")
    pages, length = [], 0
    for page in reader.pages:
        text = page.extract_text().strip()
        length += len(text)
        if length > source.largest:
            return source.dead(part.name, "too large", f"more than {source.largest:,} characters")
        pages.append(text)
    whole = "\n\n".join(text for text in pages if text)
    if not whole:
        return source.dead(part.name, "no text", "its pages are pictures, or empty: recognise the characters first")
    stated = reader.metadata
    title = (stated.title if stated else "") or part.path.stem
    extra = {"author": stated.author} if stated and stated.author else {}
    return source.document(whole, part.name, title=str(title), date=_date(stated), extra=extra)


def _date(stated: Any) -> str:
    """The date that the file states, ISO 8601; "" if it states none or one that is no date."""
    try:
        return stated.creation_date.date().isoformat() if stated and stated.creation_date else ""
    except (ValueError, AttributeError):
        return ""
