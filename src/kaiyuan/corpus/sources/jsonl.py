"""JSON lines, plain or compressed; a plain file can be read in ranges of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from kaiyuan.corpus.sources.document import Item
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.rows import Fields
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.corpus.sources.streams import damage, lines, open_stream

_BOM = b"\xef\xbb\xbf"


class NotJson(Exception):
    """A line that is no JSON: (kind, detail)."""


def read(part: Part, source: Source) -> Iterator[Item]:
    """One item a line; those of a range of a file are placed by byte offset, others by line."""
    fields, parse, longest = Fields(source), parser(), source.largest
    number = 0
    try:
        with open_stream(part.path) as stream:
            for number, offset, line in lines(stream, longest, part.start, part.stop):
                if line.isspace():
                    continue
                place = f"{part.name}:{number}" if part.stop is None else f"{part.name}@{offset}"
                if len(line) > longest:
                    yield source.dead(place, "too large", f"a line of more than {longest:,} bytes", line)
                    continue
                try:
                    row = parse(line.removeprefix(_BOM) if offset == 0 else line)
                except NotJson as error:
                    kind, detail = error.args
                    yield source.dead(place, kind, detail, line)
                    continue
                yield fields.document(row, place)
    except damage() as error:
        yield source.dead(f"{part.name}:{number}", "damaged file", f"damaged after line {number}: {error}")


def parser() -> Callable[[bytes], Any]:
    """A function from a line to its value, ``NotJson`` where it has none; with orjson if that is installed.

    What orjson refuses gets its verdict from the standard library, so both give the same.
    """
    try:
        import orjson
    except ImportError:
        return parse_line

    def parse(line: bytes) -> Any:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            return parse_line(line)

    return parse


def parse_line(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotJson("not UTF-8", f"{error.reason} at byte {error.start}; convert the file first") from None
    except json.JSONDecodeError as error:
        raise NotJson("not valid JSON", f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise NotJson("not valid JSON", "nested too deep") from None
    except ValueError as error:
        raise NotJson("not valid JSON", str(error)) from None
