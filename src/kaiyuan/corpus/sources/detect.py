"""What format a file has: by its name, and by its first bytes where the name says nothing."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

from kaiyuan.corpus.sources.programming import language_of
from kaiyuan.corpus.sources.spec import Format
from kaiyuan.corpus.sources.streams import COMPRESSED

ENDINGS: dict[str, Format] = {
    ".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html",
    ".xhtml": "html", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".warc": "warc", ".wet": "warc",
    ".epub": "epub", ".pdf": "pdf",
}  # fmt: skip
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
"""Of code."""
PROJECT_FILES = (
    "pyproject.toml", "setup.py", "package.json", "Cargo.toml", "go.mod", "pom.xml", "build.gradle",
    "CMakeLists.txt", "Makefile", "Gemfile", "composer.json", "mix.exs", "Package.swift",
)  # fmt: skip
_PROSE = ("", "text", "markdown", "html", "restructuredtext", "latex", "json", "yaml", "toml", "xml", "ini")
_COMPRESSIBLE = ("jsonl", "warc")
_MAGIC: tuple[tuple[bytes, Format], ...] = ((b"PAR1", "parquet"), (b"%PDF-", "pdf"), (b"WARC/1.", "warc"))
SHOWN = "text, Markdown, HTML, JSON lines, Parquet, WARC, code (folder, .tar.gz, .zip), EPUB, PDF"


def by_name(name: str) -> Format | None:
    """The format that a file's name states, or None."""
    name = name.lower()
    if name.endswith(ARCHIVES):
        return "code"
    plain, compression = name, next((ending for ending in COMPRESSED if name.endswith(ending)), "")
    if compression:
        plain = name.removesuffix(compression)
    found = ENDINGS.get("." + plain.rsplit(".", 1)[-1]) if "." in plain else None
    return found if not compression or found in _COMPRESSIBLE else None


def by_content(path: Path) -> Format | None:
    """The format that a file's first bytes speak of, or None."""
    with path.open("rb") as stream:
        head = stream.read(65536)
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    if head.startswith(b"\x1f\x8b"):
        inner = _format_of(_inflated(head))
        return inner if inner in _COMPRESSIBLE else None
    return _format_of(head)


def _format_of(head: bytes) -> Format | None:
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if start.startswith(b"{"):
        return "jsonl"
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "text" if head and _is_text(head) else None


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head[: len(head) - 4 if len(head) > 100 else None].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, 4096)
    except (zlib.error, gzip.BadGzipFile):
        return b""


def _zipped(path: Path) -> Format | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return "epub" if "META-INF/container.xml" in archive.NameToInfo else "code"
    except (zipfile.BadZipFile, OSError, ValueError):
        return None


def is_project(folder: Path) -> bool:
    """Whether a folder is somebody's code rather than a collection of texts.

    A data set may be kept in git, or have a Makefile, so files of data in its first two levels speak against it.
    """
    names = [path.name for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    if any(by_name(name) in ("jsonl", "parquet", "warc", "epub", "pdf") for name in names):
        return False
    if any((folder / name).exists() for name in PROJECT_FILES):
        return True
    return (folder / ".git").exists() and any(language_of(name, "") not in _PROSE for name in names)
