"""From a part of a source to its items, and whole files to documents where every error must stop the reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from kaiyuan.corpus.sources import demo
from kaiyuan.corpus.sources.document import Dead, Document, Item
from kaiyuan.corpus.sources.parts import Found, Part, find
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.errors import DataError

_READERS = {
    "text": "text", "markdown": "text", "html": "text", "jsonl": "jsonl", "parquet": "parquet", "warc": "warc",
    "code": "code", "epub": "epub", "pdf": "pdf", "hf": "hub", "demo": "demo",
}  # fmt: skip


def find_parts(source: Source) -> Iterator[Found]:
    """Every part of ``source`` with the format to read it in; see ``parts.find`` and ``hub.find``."""
    if source.path.startswith("hf://") or source.format == "hf":
        from kaiyuan.corpus.sources import hub

        for part in hub.find(source):
            yield part, "hf"
    elif source.path == demo.PATH:
        for part in demo.find():
            yield part, "demo"
    else:
        yield from find(demo.located(source))


def read_part(part: Part, source: Source) -> Iterator[Item]:
    """Documents and dead records of one part; ``source.format`` says how to read it.

    A file that cannot be opened or breaks off is a dead record too: the run goes on with the next one.
    """
    if part.skip:
        kind, _, detail = part.skip.partition(": ")
        yield source.skip(part.name, kind, detail) if kind == "vendored" else source.dead(part.name, kind, detail)
        return
    try:
        yield from import_module(f"kaiyuan.corpus.sources.{_READERS[source.format]}").read(part, source)
    except (OSError, MemoryError) as error:
        yield source.dead(part.name, "cannot be read", f"{type(error).__name__}: {error}")


def read_documents(
    paths: Sequence[Path],
    *,
    source: str | None = None,
    language: str = "und",
    label: str = "",
    text_key: str = "text",
) -> Iterator[Document]:
    """Documents of the given files and folders, in sorted order; the first that cannot be read is a ``DataError``.

    The strict form, for files of one's own where nothing may be wrong: it names file and place. ``source`` is the
    file's name without its ending unless a record says something else.
    """
    for path in paths:
        asked = Source(path=str(path), language=language, label=label, text=text_key)
        for part, found in find(asked):
            name = source or _stem(part.path.name)
            named = Part(part.path, str(part.path), part.size) if found != "code" else part
            for item in read_part(named, asked.model_copy(update={"format": found, "name": name})):
                if isinstance(item, Document):
                    yield item
                elif not item.skipped:
                    raise DataError(f"{_place(item, part)}: {item.kind}: {item.detail}")


def _place(item: Dead, part: Part) -> str:
    return item.place if item.place.startswith(str(part.path)) else f"{part.path}: {item.place}"


def _stem(name: str) -> str:
    for ending in (".gz", ".zst", ".xz"):
        name = name.removesuffix(ending)
    return name.rsplit(".", 1)[0]
