"""HTML that cannot be broken by what it shows: text is escaped unless it is ``Markup`` already.

tag("p", "a < b", class_="note")     ->     <p class="note">a &lt; b</p>
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Container, Iterable
from typing import Any

_VOID = {"br", "col", "hr", "link", "meta"}


class Markup(str):
    """Text that is HTML. Everything else is escaped when it becomes part of a page."""

    __slots__ = ()


Content = str | int | float | None


def escape(value: Content) -> Markup:
    """``value`` as HTML text; quotes are escaped too, so it may stand in an attribute. None becomes nothing."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_visible("" if value is None else str(value)), quote=True))


def _visible(text: str) -> str:
    """``text`` with control characters, lone surrogates and marks that turn the writing direction made visible."""
    return "".join("�" if _is_unsafe(letter) else letter for letter in text)


def _is_unsafe(letter: str) -> bool:
    if letter in "\n\t" or (letter.isascii() and letter.isprintable()):
        return False
    kind = unicodedata.category(letter)
    return kind in ("Cc", "Cs") or (kind == "Cf" and letter not in "\u200c\u200d")


def join(parts: Iterable[Content]) -> Markup:
    """All ``parts`` one after the other."""
    return Markup("".join(escape(part) for part in parts))


def tag(name: str, /, *children: Content, **attributes: Content | bool) -> Markup:
    """One element. ``class_`` means ``class`` and ``aria_label`` ``aria-label``; None and False leave one out."""
    shown = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            shown.append(f" {key}")
        elif value is not None and value is not False:
            shown.append(f' {key}="{escape(value)}"')
    opening = f"<{name}{''.join(shown)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def data_script(value: Any) -> Markup:
    """A block of JSON for the page's script. No text in it can end the block early."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(f'<script type="application/json">{text}</script>')


def table(
    head: Iterable[Content],
    rows: Iterable[Iterable[Content]],
    caption: str = "",
    class_: str = "",
    groups: Container[int] = (),
) -> Markup:
    """A table that scrolls sideways where it is too wide. The first cell of every row is its heading; ``groups`` are
    the rows with a line above them.
    """
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = []
    for number, (first, *rest) in enumerate(rows):
        cells = [tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)]
        body.append(tag("tr", *cells, class_="group" if number in groups else None))
    title = tag("caption", caption) if caption else None
    inner = tag("table", title, tag("thead", columns), tag("tbody", *body), class_=class_ or None)
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def details(summary: Content, *children: Content, class_: str = "", open_: bool = False) -> Markup:
    """A part that opens on demand, without any script."""
    return tag("details", tag("summary", summary), *children, class_=class_ or None, open=open_)
