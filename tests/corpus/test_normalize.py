from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.normalize import normalize

PIECES = st.sampled_from(
    ["&amp;", "amp;", "&lt;", "&", "<", "\r\n", "\r", "\n", " ", "\t", "\u3000", "\u200b", "\u200d", "😀", "👩", "é",
     "e\u0301", "Ã©", "â€™", "ä½\xa0å¥½", "你好", "，", "“", "”", "Ａ", "１", "\ufeff", "\x00", "\x85", "\x1b[31m", "a",
     "b", "\ud800", "ﬁ"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("schÃ¶n and â€œquotedâ€\x9d", "schön and “quoted”"),  # UTF-8 read as Windows-1252
        ("ä½\xa0å¥½", "你好"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("cafe\u0301", "caf\u00e9"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen \u202ertl", "zerowidth softhyphen rtl"),
        ("a\x00b\x07c\x7f", "abc"),
        ("no\u00a0break\u2009thin", "no break thin"),
        ("trail  \t\nideographic\u3000\u3000\nend ", "trail\nideographic\nend"),
        ("\n\n \n　　第一段\n\n\n\n\n\n第二段\n\n", "　　第一段\n\n\n第二段"),
        ("def f():\n\treturn 1\n\n\nclass A:\n    pass", "def f():\n\treturn 1\n\n\nclass A:\n    pass"),
        ("电话：１３８，ＡＢｃ＠ｑｑ", "电话：138，ABc@qq"),
        ("他说：“你好，世界！”（笑）……——", "他说：“你好，世界！”（笑）……——"),
        ("family 👨\u200d👩\u200d👧 but not a\u200db", "family 👨\u200d👩\u200d👧 but not ab"),
        ("broken \ud800 surrogate", "broken \ufffd surrogate"),
        ("", ""),
    ],
)
def test_examples(raw: str, normal: str) -> None:
    assert normalize(raw) == normal


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
@example("&amp;amp;amp;amp;amp;lt;")
@example("&am\u200bp;")
@example("😀\u200b\u200d\u200d")
def test_idempotent_and_clean(text: str) -> None:
    normal = normalize(text)
    assert normalize(normal) == normal
    assert normal == unicodedata.normalize("NFC", normal)
    assert not any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in normal)
    assert all(line == line.rstrip(" \t\u3000") for line in normal.split("\n"))
    assert "\n\n\n\n" not in normal
    normal.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abc XYZ019.,;:!?'\"-()\n天地玄黄，。！？“”《》", max_size=80))
def test_ordinary_text_keeps_every_visible_character(text: str) -> None:
    assert normalize(text).split() == text.split()
