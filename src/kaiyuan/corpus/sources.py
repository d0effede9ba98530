"""Where documents come from: the demo corpus inside of the package, or the user's own files.

The demo corpus is real English, Chinese and Python text, 8 MB, public domain or under permissive licences (see
``data/NOTICE.md``; ``tools/build_demo_corpus.py`` makes it). A user's corpus is JSON lines (``.jsonl``, also compressed
as ``.jsonl.gz`` or ``.jsonl.xz``) with at least a ``"text"`` each, or plain text (``.txt``), one document a file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from kaiyuan.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".txt")
"""Endings of the files that ``read_documents`` reads."""
_DAMAGED = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)


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


def document_id(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``text`` in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def demo_sources() -> list[SourceInfo]:
    """The files of the demo corpus, in the order in which ``demo_documents`` reads them."""
    entries = json.loads(files("kaiyuan.corpus").joinpath("data", "sources.json").read_text(encoding="utf-8"))
    return [SourceInfo(**entry) for entry in entries]


def demo_documents() -> Iterator[Document]:
    """All documents of the demo corpus; a ``DataError`` if a file is missing or not as it was shipped."""
    for source in demo_sources():
        for line in io.BytesIO(lzma.decompress(_demo_file(source))):
            row = json.loads(line)
            yield Document(
                document_id(row["text"]), row["text"], source.name, source.language, source.label, row["title"]
            )


def _demo_file(source: SourceInfo) -> bytes:
    try:
        data = files("kaiyuan.corpus").joinpath("data", source.file).read_bytes()
    except FileNotFoundError:
        raise DataError(f"demo corpus: {source.file} is missing; install kaiyuan again") from None
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise DataError(f"demo corpus: {source.file} is damaged (its SHA-256 is not as shipped); install kaiyuan again")
    return data


def read_documents(
    paths: Sequence[Path],
    *,
    source: str | None = None,
    language: str = "und",
    label: str = "web",
    text_key: str = "text",
) -> Iterator[Document]:
    """Documents of the given files, and of all files with a known ending below the given folders, in sorted order.

    A JSON line holds an object with the text under ``text_key`` and, if it likes, strings ``title``, ``source``,
    ``language`` and ``label``; where it does not, the arguments count (``source``: the file's name without its ending).
    Raises ``DataError`` that names file and line for whatever cannot be read.
    """
    for path in expand(paths):
        defaults = {"source": source or _stem(path), "language": language, "label": label, "title": ""}
        if path.name.endswith(".txt"):
            yield _document(_read_text(path), {**defaults, "title": path.stem}, str(path))
            continue
        for number, line in _numbered_lines(path):
            if line.strip():
                where = f"{path}:{number}"
                row = _row(line, where, text_key)
                yield _document(row[text_key], {key: row.get(key, value) for key, value in defaults.items()}, where)


def expand(paths: Sequence[Path]) -> list[Path]:
    """The files to read: folders are searched for known endings, files are taken as they are."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
            if not inside:
                raise DataError(f"{path}: no file in this folder ends in {', '.join(SUFFIXES)}")
            found.extend(inside)
        elif not path.exists():
            raise DataError(f"{path}: no such file or folder")
        elif not path.name.endswith(SUFFIXES):
            raise DataError(f"{path}: cannot tell what this is; give files that end in {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    return found


def _stem(path: Path) -> str:
    return path.name.removesuffix(next(suffix for suffix in reversed(SUFFIXES) if path.name.endswith(suffix)))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from None


def _open(path: Path) -> io.BufferedIOBase:
    if path.name.endswith(".xz"):
        return lzma.open(path, "rb")
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 text ({error.reason}); convert the file first") from None
    except _DAMAGED as error:
        raise DataError(f"{path}: damaged after line {number}: {error}") from None


def _row(line: str, where: str, text_key: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: every line must be a JSON object with a {text_key!r}, not {type(row).__name__}")
    if text_key not in row:
        raise DataError(f"{where}: no {text_key!r} among its keys ({', '.join(row) or 'none'}); name the right one")
    return row


def _document(text: object, values: dict[str, Any], where: str) -> Document:
    for key, value in {"the text": text, **values}.items():
        if not isinstance(value, str):
            raise DataError(f"{where}: {key} must be a string, not {type(value).__name__}")
    assert isinstance(text, str)
    try:
        return Document(document_id(text), text, **values)
    except UnicodeEncodeError:
        raise DataError(f"{where}: the text holds half of a surrogate pair, which is no character") from None
