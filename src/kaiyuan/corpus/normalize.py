"""One spelling for what looks the same: broken encodings, Unicode forms, spaces, line ends and invisible characters."""

from __future__ import annotations

import re

_MAX_PASSES = 32
"""Each undoes one layer of damage (``&amp;amp;`` has two); real text needs one or two."""

_NEWLINE = re.compile("\r\n?|[\u0085\u2028\u2029\v\f]")
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters except tab and newlines
    "\u00ad\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff]"
    "|(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d"  # a joiner means something only inside an emoji
)
_TRAILING = re.compile("[ \t\u3000]+(?=\n|\\Z)")
_BLANK_LINES = re.compile("\n{4,}")
_FULL_WIDTH = {
    code: code - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ", "＠＠") for code in range(ord(first), ord(last) + 1)
}


_ODD = re.compile(
    "[^\n\t -%'-~\u00b7\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026\u3001-\u3003\u3008-\u3011"
    "\u3400-\u4dbf\u4e00-\u9fff，。！？：；（）]"
)
"""A character that repair may have something to do with. Mojibake always holds one: its first characters are letters
of Latin-1, Greek or Cyrillic, and those are odd."""


def normalize(text: str) -> str:
    """``text`` in the form that the whole pipeline works on; a second call changes nothing.

    ftfy repairs mojibake, HTML entities and lone surrogates; the result is in NFC, with ``\\n`` line ends, no control
    or zero-width characters, no trailing spaces, at most two blank lines in a row (as Python code has) and none at
    either end. Full-width letters and digits become ASCII; Chinese punctuation and curly quotes stay as they are.
    """
    # Repair goes line by line, as ftfy itself does; only lines with odd characters need it, and most texts have none.
    if _ODD.search(text):
        entities = "<" not in text  # in markup they stay
        lines = text.replace("\r\n", "\n").split("\n")
        text = "\n".join([_repaired(line, entities) if _ODD.search(line) else line for line in lines])
    return _laid_out(text)


def _repaired(line: str, entities: bool) -> str:
    for _ in range(_MAX_PASSES):
        normal = _tidy(_repair(line, entities))  # this order: mojibake is made of the very characters tidied away
        if normal == line:
            break
        line = normal
    return line


def _repair(line: str, entities: bool) -> str:
    import ftfy

    return ftfy.fix_text(line, unescape_html=entities, fix_character_width=False, uncurl_quotes=False,
                         normalization="NFC")  # fmt: skip


def _tidy(line: str) -> str:
    line = _NEWLINE.sub("\n", line).translate(_FULL_WIDTH)
    return _INVISIBLE.sub("", _SPACE.sub(" ", line))


def _laid_out(text: str) -> str:
    """Without trailing spaces, with at most two blank lines in a row and none at either end."""
    text = _TRAILING.sub("", text)
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n")
