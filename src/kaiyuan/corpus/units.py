"""Units: what lengths and repetitions are counted in, so that one rule serves English and Chinese.

A unit is a Han character (or kana), or a word of any other script. A Chinese text of 100 characters and an English text
of 100 words then weigh about the same, with no word segmentation that could change between versions.
"""

from __future__ import annotations

import re

HAN = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
"""Inside of a regular expression's character class that matches Han characters."""
KANA = "\u3041-\u3096\u30a1-\u30fa"
HANGUL = "\u1100-\u11ff\uac00-\ud7a3"
WORD = "0-9A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u2c00-\u2dff\ua640-\ud7a3"
_UNIT = re.compile(f"[{HAN}{KANA}]|[{WORD}]+(?:['’][{WORD}]+)*")
_HAN = re.compile(f"[{HAN}]")


def units(text: str) -> list[str]:
    """The units of ``text`` in order, as written; punctuation and spaces are in none."""
    return _UNIT.findall(text)


def han_characters(text: str) -> int:
    """How many Han characters ``text`` holds."""
    return len(_HAN.findall(text))
