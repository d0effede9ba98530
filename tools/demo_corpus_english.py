"""Readers of the English and the code packages of the demo corpus: each yields (title, text) pairs."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOVELS = {
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "emma": "Emma",
}
HEADING = re.compile(r"(?:VOLUME|CHAPTER|Chapter) +[0-9IVXL]+\.?")
FACTS = (
    ("Background", ("Introduction", "Background")),
    ("Location", ("Geography", "Location")),
    ("Area", ("Geography", "Area - comparative")),
    ("Climate", ("Geography", "Climate")),
    ("Terrain", ("Geography", "Terrain")),
    ("Natural resources", ("Geography", "Natural resources")),
    ("Languages", ("People and Society", "Languages")),
    ("Capital", ("Government", "Capital", "name")),
    ("Independence", ("Government", "Independence")),
    ("Flag", ("Government", "Flag description")),
    ("Economy", ("Economy", "Economy - overview")),
    ("Agriculture", ("Economy", "Agriculture - products")),
    ("Industries", ("Economy", "Industries")),
    ("Exports", ("Economy", "Exports - commodities")),
)
ENDINGS = ("THE END", "FINIS", "Finis", "A NOTE ON THE TEXT")
MAX_MODULE_BYTES = 40_000
SKIPPED_MODULES = ("easterutils.py",)


def austen_novels(package: Path) -> Iterator[tuple[str, str]]:
    """Two whole novels: documents long enough to train long contexts on."""
    novels = read_novels(package)
    for name in ("northangerabbey", "persuasion"):
        yield NOVELS[name], "\n\n".join(paragraph for chapter in chapters(novels[name]) for paragraph in chapter)


def austen_chapters(package: Path) -> Iterator[tuple[str, str]]:
    """Two novels, a document a chapter."""
    novels = read_novels(package)
    for name in ("prideprejudice", "emma"):
        for number, chapter in enumerate(chapters(novels[name]), 1):
            yield f"{NOVELS[name]}, chapter {number}", "\n\n".join(chapter)


def read_novels(package: Path) -> dict[str, list[str]]:
    """The lines of each novel, from the R lazy-load database: (length, zlib stream) records in alphabetical order."""
    database = next(package.rglob("janeaustenr/data/Rdata.rdb")).read_bytes()
    names = sorted([*NOVELS, "mansfieldpark", "sensesensibility"])
    novels: dict[str, list[str]] = {}
    while database:
        stream = zlib.decompressobj()
        novels[names[len(novels)]] = character_vector(stream.decompress(database[4:]))
        database = stream.unused_data
    return novels


def character_vector(data: bytes) -> list[str]:
    """The strings of one serialized R character vector (XDR format, version 3)."""
    name_length = struct.unpack(">I", data[14:18])[0]
    position = 18 + name_length
    kind, count = struct.unpack(">II", data[position : position + 8])
    if kind & 0xFF != 16:
        raise ValueError(f"not a character vector: R type {kind & 0xFF}")
    position += 8
    strings = []
    for _ in range(count):
        length = struct.unpack(">I", data[position + 4 : position + 8])[0]
        strings.append(data[position + 8 : position + 8 + length].decode())
        position += 8 + length
    return strings


def chapters(lines: list[str]) -> Iterator[list[str]]:
    """Unwrapped paragraphs, a list a chapter; front and back matter are dropped."""
    chapter: list[str] | None = None
    for paragraph in paragraphs(lines):
        if paragraph in ENDINGS:
            break
        if HEADING.fullmatch(paragraph):
            if chapter and len(chapter) > 1:
                yield chapter
            chapter = [paragraph.rstrip(".")]
        elif chapter is not None:
            chapter.append(paragraph)
    if chapter:
        yield chapter


def paragraphs(lines: list[str]) -> Iterator[str]:
    """Lines joined up to the next empty line, without the underscores that mark italics."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.strip())
        elif block:
            yield re.sub(r"\s+", " ", " ".join(block)).replace("_", "").replace("--", "—")
            block = []


def factbook(package: Path) -> Iterator[tuple[str, str]]:
    """One document a country: the entries that are prose, each under a short heading."""
    for file in sorted(package.glob("package/*/*.json")):
        country = json.loads(file.read_text(encoding="utf-8"))
        name = lookup(country, ("Government", "Country name", "conventional short form"))
        if name in ("", "none"):
            name = lookup(country, ("Government", "Country name", "conventional long form"))
        facts = [(heading, lookup(country, path)) for heading, path in FACTS]
        body = "\n\n".join(f"{heading}: {text}" for heading, text in facts if text)
        if name and len(body) > 1000:
            yield name, f"{name}\n\n{body}"


def lookup(tree: Any, path: tuple[str, ...]) -> str:
    """The text at ``path``, nested entries joined as ``name: text``; empty if there is none."""
    for key in path:
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return tidy("; ".join(leaves(tree)))


def leaves(tree: Any) -> Iterator[str]:
    """The texts of a country's nested entries, each behind the names that lead to it."""
    if not isinstance(tree, dict):
        return
    if isinstance(tree.get("text"), str):
        yield tree["text"]
    for name, child in tree.items():
        for text in leaves(child):
            yield f"{name} - {text}"


def tidy(text: str) -> str:
    """Text without markup, list marks, characters that were lost upstream, and runs of spaces."""
    text = re.sub(r"<[^>]+>", " ", text).replace(" ++", ";").replace("\ufffd", "")
    return re.sub(r"\s+", " ", text).strip()


def python_modules(package: Path) -> Iterator[tuple[str, str]]:
    """Modules up to ``MAX_MODULE_BYTES``; of the licence header that opens each, the copyright line is kept."""
    for file in sorted(package.glob("boltons/*.py")):
        if 0 < file.stat().st_size <= MAX_MODULE_BYTES and file.name not in SKIPPED_MODULES:
            text = file.read_text(encoding="utf-8")
            yield f"boltons/{file.name}", re.sub(r"\A(# Copyright[^\n]*\n)(?:#[^\n]*\n)+", r"\1", text)
