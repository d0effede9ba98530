"""Plain text, Markdown with front matter, and saved HTML pages: one document a file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from kaiyuan.corpus.sources.document import Item
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.spec import Source

_FRONT = re.compile(r"(?P<fence>---|\+\+\+)[ \t]*\r?\n(?P<body>.*?)\r?\n(?P=fence)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_PAIR = re.compile(r"([A-Za-z_][\w-]*):[ \t]*(.*?)[ \t]*$")
_NAMES = {"title": "title", "date": "date", "language": "language", "lang": "language", "licence": "licence",
          "license": "licence", "url": "url", "source_url": "url", "canonical_url": "url"}  # fmt: skip


def read(part: Part, source: Source) -> Iterator[Item]:
    if part.size > source.largest:
        detail = f"{part.size:,} bytes, at most {source.largest:,}; raise max_bytes or split the file"
        yield source.dead(part.name, "too large", detail)
        return
    data = part.path.read_bytes()
    if source.format == "html":
        from kaiyuan.corpus.sources.html import document_of

        yield document_of(data, None, part.name, source)
        return
    try:
        text = decode(data, source.encoding)
    except UnicodeDecodeError as error:
        detail = f"{error.reason} at byte {error.start}; convert it, or state its encoding"
        yield source.dead(part.name, f"not {source.encoding.upper()} text", detail, data)
        return
    stem = part.path.name.rsplit(".", 1)[0]
    if source.format == "markdown":
        yield _markdown(text, stem, part.name, source)
    else:
        yield source.document(text, part.name, title=stem)


def decode(data: bytes, encoding: str) -> str:
    """Text of ``data``; a byte order mark outweighs the encoding. ``UnicodeDecodeError`` if it is not that."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(name)
    if encoding == "auto":
        from kaiyuan.corpus.sources.html import decode as detect

        return detect(data, None)[0]
    return data.decode(encoding)


def _markdown(text: str, stem: str, place: str, source: Source) -> Item:
    values, rest = front_matter(text)
    known = {_NAMES[key]: str(value) for key, value in values.items() if key in _NAMES and isinstance(value, str)}
    extra = {key: value for key, value in values.items() if key not in _NAMES}
    if "title" not in known:
        heading = _HEADING.search(rest[:2000])
        known["title"] = heading[1] if heading else stem
    return source.document(rest, place, extra=extra, **known)


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The fields between the fences at the head of a text, and the text without them.

    ``---`` fences YAML of which plain values and lists of them are understood, ``+++`` fences TOML. What is not
    understood stays as it is.
    """
    found = _FRONT.match(text)
    if not found:
        return {}, text
    values = _toml(found["body"]) if found["fence"] == "+++" else _plain_yaml(found["body"])
    return (values, text[found.end() :].lstrip("\r\n")) if values else ({}, text)


def _toml(body: str) -> dict[str, Any]:
    try:
        return {key: _simple(value) for key, value in tomllib.loads(body).items()}
    except tomllib.TOMLDecodeError:
        return {}


def _simple(value: Any) -> Any:
    if isinstance(value, list):
        return [_simple(item) for item in value]
    if isinstance(value, dict):
        return {key: _simple(item) for key, item in value.items()}
    return value if isinstance(value, bool | int | float) else str(value)


def _plain_yaml(body: str) -> dict[str, Any]:
    """``key: value`` a line, ``[a, b]``, and lists of ``- item`` lines; {} if a line is none of these."""
    values: dict[str, Any] = {}
    key = ""
    for line in body.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _PAIR.match(line)
        item = re.match(r"[ \t]*-[ \t]+(.*?)[ \t]*$", line)
        if found:
            key, value = found[1].lower(), found[2]
            values[key] = _list(value) if value.startswith("[") and value.endswith("]") else _unquoted(value)
        elif item and key and values[key] in ("", *([values[key]] if isinstance(values[key], list) else [])):
            values[key] = [*(values[key] or []), _unquoted(item[1])]
        elif key and line[0] in " \t" and isinstance(values[key], str):
            values[key] = f"{values[key]} {line.strip()}".strip()
        else:
            return {}
    return values


def _list(value: str) -> list[str]:
    return [_unquoted(item.strip()) for item in value[1:-1].split(",") if item.strip()]


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" else value
