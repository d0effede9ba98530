"""The demo corpus: real English, Chinese and Python text, 8 MB, public domain or under permissive licences.

See ``kaiyuan/corpus/data/NOTICE.md``; ``tools/build_demo_corpus.py`` makes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kaiyuan.corpus.sources.document import Document, Item, document_id
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.errors import DataError

PATH = "demo:"
"""What names the demo corpus as the path of a source; with a name behind it, one of the files of ``data/raw``, which
are as dirty as such files are (``tools/build_demo_raw.py``)."""


@dataclass(frozen=True)
class SourceInfo:
    """One file of the demo corpus: what it is, where it is from, and the hash that it must have."""

    name: str
    file: str
    language: str
    label: str
    licence: str
    origin: str
    sha256: str
    documents: int
    bytes: int
    """Length of all texts in UTF-8, uncompressed."""


def demo_sources() -> list[SourceInfo]:
    """The files of the demo corpus, in the order in which ``demo_documents`` reads them."""
    entries = json.loads(files("kaiyuan.corpus").joinpath("data", "sources.json").read_text(encoding="utf-8"))
    return [SourceInfo(**entry) for entry in entries]


def located(source: Source) -> Source:
    """``source`` with the place of the file where it names one of the package's; these are known by their content."""
    if not source.path.startswith(PATH):
        return source
    known = {"identity": "content"}
    if name := source.path.removeprefix(PATH):
        raw = Path(str(files("kaiyuan.corpus").joinpath("data", "raw")))
        path = raw / name
        if not path.resolve().is_relative_to(raw.resolve()) or not path.exists():
            names = ", ".join(PATH + path.name for path in sorted(raw.iterdir()))
            raise DataError(f"{source.path}: no such file in the package; there are {names}")
        known["path"] = str(path)
    return source.model_copy(update=known)


def demo_documents() -> Iterator[Document]:
    """All documents of the demo corpus; a ``DataError`` if a file is missing or not as it was shipped."""
    for source in demo_sources():
        yield from _documents(source)


def find() -> Iterator[Part]:
    """The files of the demo corpus as parts of a source, each a unit of work of its own."""
    for source in demo_sources():
        path = Path(str(files("kaiyuan.corpus").joinpath("data", source.file)))
        yield Part(path, source.file, size=source.bytes, start=0, stop=source.bytes)


def read(part: Part, source: Source) -> Iterator[Item]:
    """The documents of one file; they carry the name, licence and label of their own source."""
    for info in demo_sources():
        if info.file == part.name:
            yield from _documents(info)


def _documents(source: SourceInfo) -> Iterator[Document]:
    for number, line in enumerate(io.BytesIO(lzma.decompress(_demo_file(source))), 1):
        row = json.loads(line)
        yield Document(
            document_id(row["text"]),
            row["text"],
            source.name,
            source.language,
            source.label,
            row["title"],
            place=f"{source.file}:{number}",
            licence=source.licence,
        )


def _demo_file(source: SourceInfo) -> bytes:
    try:
        data = files("kaiyuan.corpus").joinpath("data", source.file).read_bytes()
    except FileNotFoundError:
        raise DataError(f"demo corpus: {source.file} is missing; install kaiyuan again") from None
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise DataError(f"demo corpus: {source.file} is damaged (its SHA-256 is not as shipped); install kaiyuan again")
    return data
