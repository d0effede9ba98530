"""Web archives: WARC and WET, plain or compressed. HTML becomes text; the rest is left out.

A damaged member of a compressed archive costs that member: reading goes on at the next one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources.document import Dead, Item
from kaiyuan.corpus.sources.html import decode, document_of
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.errors import DataError

_HTML = ("text/html", "application/xhtml+xml")
_STARTS = {b"\x1f\x8b": b"\x1f\x8b\x08", b"\x28\xb5": b"\x28\xb5\x2f\xfd", b"WA": b"WARC/1."}
"""First two bytes of a file, and what every member (or record) of it begins with."""
_PIECE = 2**20


@dataclass
class _Place:
    """How far an archive was read."""

    begin: int
    last: int
    records: int = 0
    hurt: bool = False
    """Whether the last record is known to be damaged."""


def read(part: Part, source: Source) -> Iterator[Item]:
    """A document for every page and every text of a WET file, placed by the offset of its record."""
    place = _Place(0, 0)
    try:
        while True:
            try:
                yield from _records(part, source, place)
                if not place.hurt and _cut_off(part.path, place.last):
                    yield source.dead(f"{part.name}@{place.last}", "damaged record", "the file ends in the middle")
                return
            except (OSError, EOFError) as error:
                if place.records or not place.begin:
                    detail = f"damaged after byte {place.last}: {error}"
                    yield source.dead(f"{part.name}@{place.last}", "damaged record", detail)
            begin = _next_start(part.path, place.last + 1)
            if begin is None:
                return
            place.begin = place.last = begin
            place.records = 0
    except ImportError:
        raise DataError("reading WARC needs resiliparse: pip install 'kaiyuan[corpus]'") from None


def _records(part: Part, source: Source, place: _Place) -> Iterator[Item]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    with part.path.open("rb") as stream:
        stream.seek(place.begin)
        # Not strict: servers send header lines that follow no standard, and their pages are as good as others.
        for record in ArchiveIterator(stream, record_types=kinds, auto_decode="all", strict_mode=False):
            place.last = record.stream_pos  # in the file, wherever reading began
            place.records += 1
            place.hurt = False
            for item in _record(record, f"{part.name}@{place.last}", source, WarcRecordType.conversion):
                place.hurt = isinstance(item, Dead) and item.kind == "damaged record"
                yield item


def _record(record: Any, place: str, source: Source, conversion: Any) -> Iterator[Item]:
    length, largest = record.content_length, source.largest
    if length > largest:
        yield source.dead(place, "too large", f"{length:,} bytes, at most {largest:,}")
        return
    web = record.http_headers if record.is_http_parsed else None
    status = web.status_code if web is not None else None
    if status is not None and status != 200:
        yield source.skip(place, "no page", f"HTTP status {status}")
        return
    kind = (record.http_content_type or "") if web is not None else _media_type(record.headers.get("Content-Type"))
    kind = kind.lower()
    if kind == "application/http":
        yield source.dead(place, "damaged record", "its HTTP header cannot be read")
        return
    if kind and kind not in _HTML and kind != "text/plain":
        yield source.skip(place, "no text", kind[:60])
        return
    data = record.reader.read(largest + 1)
    if len(data) > largest:
        yield source.dead(place, "too large", f"more than {largest:,} bytes when unpacked", data)
    elif not data and not length:
        yield source.dead(place, "damaged record", "empty, or cut off")
    elif len(data) < length and not _encoded(web):
        yield source.dead(place, "damaged record", f"{len(data):,} of {length:,} bytes", data)
    else:
        is_page = record.record_type != conversion and (kind in _HTML or (not kind and b"<" in data[:1000]))
        yield _text(data, record, place, source, is_page)


def _text(data: bytes, record: Any, place: str, source: Source, is_page: bool) -> Item:
    values = {"url": record.headers.get("WARC-Target-URI") or "", "date": record.headers.get("WARC-Date") or ""}
    charset = record.http_charset if record.is_http_parsed else None
    if is_page:
        return document_of(data, charset, place, source, **values)
    try:
        text, _ = decode(data, charset)
    except UnicodeDecodeError as error:
        return source.dead(place, "unknown encoding", error.reason, data)
    if not text.strip():
        return source.dead(place, "page without text")
    language = (record.headers.get("WARC-Identified-Content-Language") or "").split(",")[0]
    language = _SHORT.get(language, "") if source.language == "und" else source.language
    return source.document(text, place, language=language, **values)


_SHORT = {"eng": "en", "zho": "zh", "deu": "de", "fra": "fr", "spa": "es", "jpn": "ja", "kor": "ko", "rus": "ru"}
"""Two-letter codes of what Common Crawl states in three letters; others are left to detection."""


def _media_type(value: str | None) -> str:
    return (value or "").partition(";")[0].strip()


def _encoded(web: Any) -> bool:
    """Whether the body's length on the wire is not the length of what it decodes to."""
    return web is not None and bool(web.get("Content-Encoding") or web.get("Transfer-Encoding"))


def _cut_off(path: Path, last: int) -> bool:
    """Whether a .gz ends inside of a member: too little may be left of it for a record to show."""
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return False
        stream.seek(last)
        member, data = zlib.decompressobj(16 + zlib.MAX_WBITS), b""
        try:
            while data or (data := stream.read(_PIECE)):
                if member.eof:
                    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
                member.decompress(data, _PIECE)
                data = member.unused_data if member.eof else member.unconsumed_tail
        except zlib.error:
            return False  # not where a member begins: an archive that is packed as a whole
        return not member.eof


def _next_start(path: Path, position: int) -> int | None:
    """Where the next member of the archive may begin at ``position`` or after it."""
    with path.open("rb") as stream:
        start = _STARTS.get(stream.read(2))
        if start is None:
            return None
        stream.seek(position)
        tail = b""
        while piece := stream.read(_PIECE):
            found = (tail + piece).find(start)
            if found >= 0:
                return position - len(tail) + found
            position += len(piece)
            tail = piece[-len(start) + 1 :]
    return None
