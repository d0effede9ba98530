"""HTML pages to text: charset, title, main content, language hint.

resiliparse does it by default, trafilatura where the recipe asks for it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any

from kaiyuan.corpus.sources.document import Item, one_line
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.errors import DataError

DEEPEST = 512
"""Elements inside of each other, as in browsers; the time of extraction grows with the square of the depth."""
REPLACED = 0.01
"""Share of broken characters from which a page counts as undecodable."""
MOST_REOPENED = 4_000_000
"""Tags of a page times its unclosed formatting tags: a parser opens each of these again in every element after them."""
MOST_EQUAL = 3
_TOO_DEEP = ">".join("*" * (DEEPEST + 1))
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_WESTERN = ("cp1252", "iso8859-1", "ascii")
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9-]+)?\s*", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,1000})", re.IGNORECASE)
_FORMATTING = re.compile(
    r"<(/?)(a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[\s/>])([^>]{0,500})", re.IGNORECASE
)
_HTML_LANGUAGE = re.compile(r"<html\b[^>]{0,500}?\blang\s*=\s*[\"']?\s*([A-Za-z-]{2,20})", re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    text: str
    title: str
    language: str
    """ISO 639 code that the page states, or ""."""


def document_of(data: bytes, charset: str | None, place: str, source: Source, **values: str) -> Item:
    """The document of an HTML page, or a dead record; ``charset`` is what the server has stated."""
    try:
        html, _ = decode(data, charset)
    except UnicodeDecodeError as error:
        return source.dead(place, "unknown encoding", error.reason, data)
    page = extract(html, source)
    if page is None:
        return source.dead(place, "nested too deep", f"more than {DEEPEST} elements inside of each other", html)
    if not page.text:
        return source.dead(place, "page without text", sample=html)
    language = source.language if source.language != "und" else page.language
    return source.document(page.text, place, title=page.title, language=language, **values)


def extract(html: str, source: Source) -> Page | None:
    """Text and title of a page; None if its elements are nested too deep."""
    read = _with_trafilatura if source.extractor == "trafilatura" else _with_resiliparse
    return read(html, source.main_content)


def _with_resiliparse(html: str, main_content: bool) -> Page | None:
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    except ImportError:
        raise DataError("reading HTML needs resiliparse: pip install 'kaiyuan[corpus]'") from None
    tags = html.count("<")
    if tags > DEEPEST and tags * _unclosed(html, MOST_REOPENED // tags) > MOST_REOPENED:
        return None
    tree = HTMLTree.parse(html)
    if tags > DEEPEST and _too_deep(tree):
        return None
    text = extract_plain_text(tree, main_content=main_content, alt_texts=False, comments=not main_content)
    return Page(text.strip(), one_line(tree.title or "", 500), _language(html))


def _unclosed(html: str, limit: int) -> int:
    """How many formatting tags are open at most at a time, counted no further than one beyond ``limit``.

    Of equal ones only three count, as in the parsers.
    """
    open_tags: dict[str, list[str]] = {}
    most = count = 0
    for closing, name, attributes in _FORMATTING.findall(html):
        of_name = open_tags.setdefault(name.lower(), [])
        if closing and of_name:
            of_name.pop()
            count -= 1
        elif not closing and of_name[-MOST_EQUAL:].count(attributes) < MOST_EQUAL:
            of_name.append(attributes)
            count += 1
            most = max(most, count)
        if most > limit:
            break
    return most


def _too_deep(tree: Any) -> bool:
    return tree.document.query_selector(_TOO_DEEP) is not None


def _with_trafilatura(html: str, main_content: bool) -> Page:
    try:
        import trafilatura
    except ImportError:
        raise DataError("extractor = 'trafilatura' needs it: pip install trafilatura") from None
    if main_content:
        text = trafilatura.extract(html, include_comments=False, favor_precision=False) or ""
    else:
        text = trafilatura.html2txt(html)
    found = _TITLE.search(html)
    return Page(text.strip(), one_line(unescape(found[1]), 500) if found else "", _language(html))


def _language(html: str) -> str:
    stated = _HTML_LANGUAGE.search(html[:5000])
    found = _LANGUAGE.fullmatch(stated[1]) if stated else None
    return found[1].lower() if found else ""


def decode(data: bytes, charset: str | None) -> tuple[str, str]:
    """Text and encoding of a page: byte order mark, valid UTF-8, then what page and server state, then detection.

    Valid UTF-8 comes before every statement because no other encoding's text of some length happens to be that. A
    server that says Latin-1 says so by default, so the page is asked first. ``UnicodeDecodeError`` if nothing fits.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace"), name
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    names = list(dict.fromkeys(_candidates(data, charset)))
    for name in names:
        try:
            return data.decode(name), name
        except UnicodeDecodeError:
            continue
    for name in names or ["utf-8"]:
        text = data.decode(name, "replace")
        if text.count("\ufffd") <= REPLACED * len(text):
            return text, name
    raise UnicodeDecodeError("utf-8", data[:1], 0, 1, f"not {', '.join(names) or 'UTF-8'}")


def _candidates(data: bytes, charset: str | None) -> Iterator[str]:
    meta = _META.search(data[:4096])
    stated = [_codec(name) for name in (charset, meta[1].decode("ascii") if meta else None)]
    yield from sorted((name for name in stated if name), key=lambda name: name in _WESTERN)
    try:
        from resiliparse.parse.encoding import detect_encoding
    except ImportError:
        return
    if detected := _codec(detect_encoding(data)):
        yield detected


def _codec(name: str | None) -> str | None:
    """Python's name of an encoding, the one that browsers mean by it; None if it is unknown."""
    try:
        found = codecs.lookup((name or "").strip().strip("\"'"))
    except (LookupError, ValueError):
        return None
    if not found._is_text_encoding:
        return None
    return {"gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252"}.get(found.name, found.name)
