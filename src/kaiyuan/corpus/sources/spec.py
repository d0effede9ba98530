"""What a recipe says about one source of text."""

from __future__ import annotations

import codecs
from typing import Any, Literal

from pydantic import Field, field_validator

from kaiyuan.corpus.sources.document import Dead, Document, Item, document_id, sample_of
from kaiyuan.errors import DataError
from kaiyuan.settings import Settings

Format = Literal["auto", "text", "markdown", "html", "jsonl", "parquet", "warc", "code", "epub", "pdf", "hf", "demo"]
MEBIBYTE = 2**20
LARGEST = {"code": MEBIBYTE, "epub": 256 * MEBIBYTE, "pdf": 256 * MEBIBYTE}
"""Largest record (a file of code, a line, a page, a book) in bytes by format; 64 MiB for the others."""
LABELS = {"code": "code", "epub": "books", "pdf": "books"}
FIELDS = ("title", "source", "language", "label", "url", "licence", "date")
"""What a record of JSON or a table may say of its text, besides the text itself."""


class Source(Settings):
    """One source: a path and how to read it. In a recipe a path alone is enough."""

    path: str
    """A file, a folder, a glob such as ``data/**/*.jsonl.zst``, or ``hf://owner/name[:config][/split]``."""
    format: Format = "auto"
    """``auto`` goes by each file's name and, where that says nothing, by its first bytes."""
    name: str = ""
    """What documents carry as their source; by default the name of the file or folder."""
    text: str = "text"
    """Field of the text in JSON lines, Parquet and datasets; ``a.b`` is ``b`` inside of ``a``."""
    id: str = ""
    """Field of the record's own id, kept as ``extra.id``."""
    keys: dict[str, str] = {}
    """Fields of title, source, language, label, url, licence and date, where they have other names; "" for none."""
    keep: list[str] = []
    """Further fields to keep in ``extra``."""
    label: str = ""
    """Of documents that state none; by default ``code``, ``books`` (EPUB, PDF) or ``web``."""
    language: str = "und"
    licence: str = ""
    synthetic: bool = False
    """Whether the text was generated; kept as ``extra.synthetic``."""
    limit: int = Field(default=0, ge=0)
    """Take only the first documents; 0 takes all."""
    max_bytes: int = Field(default=0, ge=0)
    """Largest record; 0 is 64 MiB, for a file of code 1 MiB, for a book 256 MiB."""
    max_dead_share: float = Field(default=0.05, ge=0, le=1)
    """More damaged records than this (and more than 100) stop the run: the settings must be wrong."""
    encoding: str = "utf-8"
    """Of text and Markdown files: a codec's name such as ``gb18030``, or ``auto`` to detect it."""
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    main_content: bool = True
    """Whether menus, headers and footers of HTML pages are left out."""
    follow_links: bool = False
    """Whether symbolic links that leave the folder are followed; a cache of the Hugging Face hub needs it."""
    identity: Literal["mtime", "content"] = "mtime"
    """What tells a changed file: its time of change, or a hash of its content (slow; survives copying)."""
    revision: str = ""
    """Of a Hugging Face dataset: a branch, tag or commit."""

    @field_validator("keys")
    @classmethod
    def _known_keys(cls, keys: dict[str, str]) -> dict[str, str]:
        if unknown := [key for key in keys if key not in FIELDS]:
            raise ValueError(f"unknown {', '.join(unknown)}; known: {', '.join(FIELDS)}")
        return keys

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str) -> str:
        if not path.strip() or "\0" in path:
            raise ValueError("empty: name a file, a folder, a glob or hf://owner/name")
        return path

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            if encoding != "auto" and not codecs.lookup(encoding)._is_text_encoding:
                raise LookupError
        except LookupError:
            raise ValueError(f"{encoding!r} is no text encoding; write for example utf-8, gb18030 or auto") from None
        return encoding

    @classmethod
    def of(cls, value: str | Source | dict[str, Any]) -> Source:
        """A source from what a recipe holds: a path, or a table."""
        if isinstance(value, Source):
            return value
        return cls(**as_table(value))

    @property
    def largest(self) -> int:
        """Bytes of the largest record that is read."""
        return self.max_bytes or LARGEST.get(self.format, 64 * MEBIBYTE)

    def settings(self) -> dict[str, Any]:
        """What decides about the documents of one file: everything but where it lies and when to stop."""
        return self.model_dump(exclude={"path", "limit", "max_dead_share", "follow_links", "identity"})

    def document(self, text: object, place: str, **values: Any) -> Item:
        """A document of this source, or a dead record if ``text`` or one of ``values`` has the wrong type.

        ``values`` are fields of ``Document``; those that are empty or left out come from the source.
        """
        known = {"source": self.name, "language": self.language, "licence": self.licence,
                 "label": self.label or LABELS.get(self.format, "web")}  # fmt: skip
        values = {**known, **{name: value for name, value in values.items() if value not in (None, "", {})}}
        if self.synthetic:
            values["extra"] = {**values.get("extra", {}), "synthetic": True}
        for name, value in (("the text", text), *values.items()):
            if name != "extra" and not isinstance(value, str):
                detail = f"{name} must be a string, not {type(value).__name__}{_mend(name)}"
                return self.dead(place, "wrong type", detail, value)
        assert isinstance(text, str)
        if len(text) > self.largest:
            return self.dead(place, "too large", f"{len(text):,} characters, at most {self.largest:,}", text)
        try:
            return Document(document_id(text), text, place=place, **values)
        except UnicodeEncodeError:
            return self.dead(place, "broken characters", "half of a surrogate pair, which is no character", text)

    def dead(self, place: str, kind: str, detail: str = "", sample: object = "", skipped: bool = False) -> Dead:
        return Dead(self.name, place, kind, detail, sample_of(sample), skipped)

    def skip(self, place: str, kind: str, detail: str = "") -> Dead:
        return self.dead(place, kind, detail, skipped=True)


def as_table(value: Any) -> Any:
    """A path alone as the table that it stands for; for recipes."""
    return {"path": value} if isinstance(value, str) else value


def _mend(name: str) -> str:
    return f'; name another field, or none with keys = {{{name} = ""}}' if name in FIELDS else ""


def problem(source: Source, what: str) -> DataError:
    """An error about the source as a whole."""
    return DataError(f"source {source.path}: {what}")
