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
_TRAILING = re.compile("[ \t\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\n{4,}")
_FULL_WIDTH = {
    code: code - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ", "＠＠") for code in range(ord(first), ord(last) + 1)
}


def normalize(text: str) -> str:
    """``text`` in the form that the whole pipeline works on; a second call changes nothing.

    ftfy repairs mojibake, HTML entities and lone surrogates; the result is in NFC, with ``\\n`` line ends, no control
    or zero-width characters, no trailing spaces, at most two blank lines in a row (as Python code has) and none at
    either end. Full-width letters and digits become ASCII; Chinese punctuation and curly quotes stay as they are.
    """
    for _ in range(_MAX_PASSES):
        normal = _tidy(_repair(text))  # in this order: mojibake is made of the very characters that are tidied away
        if normal == text:
            break
        text = normal
    return text


def _repair(text: str) -> str:
    import ftfy

    return ftfy.fix_text(text, fix_character_width=False, uncurl_quotes=False, normalization="NFC")


def _tidy(text: str) -> str:
    text = _NEWLINE.sub("\n", text).translate(_FULL_WIDTH)
    text = _INVISIBLE.sub("", _SPACE.sub(" ", text))
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text))
    return text.strip("\n")
