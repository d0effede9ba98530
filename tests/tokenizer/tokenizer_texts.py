"""Text to train a tokenizer on, and text that is hard on tokenizers."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator

from hypothesis import strategies as st
from tokenizers.normalizers import NFC

from kaiyuan.corpus.sources import demo_documents
from kaiyuan.tokenizer.special import special_tokens

PIECES = [
    *special_tokens(6),
    "<|", "|>", "eos", "<|eos|", "|endoftext|>",
    "我们", "的", "中国人民", "，", "。\n", "臺灣", "𠮷",
    "the", " The", "don't", "I'LL", "'ſ", "’s", " in", "ing", "naïve",
    "1", "２", "٣", "123456", "½", "3.14",
    " ", "  ", "   \n", "\t", "\r\n", "\u3000", "\u00a0", "\u2028", "\u0085",
    "👍🏽", "👨‍👩‍👧", "🇨🇳", "\ufeff", "\u200b", "\x00",
    "e\u0301", "\u212b", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u0344", "\u2126", "a\u0323\u0307", "\uf900", "\u0338",
    "def f(x):\n    return x\n", "----", "!=", "\\n", "https://",
]  # fmt: skip


def _same_unicode(text: str) -> bool:
    """Whether NFC of ``tokenizers``, which knows an older Unicode, is that of Python: not for a few rare marks."""
    return NFC().normalize_str(text) == unicodedata.normalize("NFC", text)


texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.text().filter(_same_unicode),
    st.text("的我一是不了abcdeos' 12\n"),
)


def training_texts(count: int = 60) -> list[str]:
    """``count`` documents, taken in turns from the sources of the demo corpus, the first 4,000 characters of each."""
    by_source: dict[str, list[str]] = {}
    for document in demo_documents():
        by_source.setdefault(document.source, []).append(document.text[:4000])

    def in_turns() -> Iterator[str]:
        for row in itertools.zip_longest(*by_source.values()):
            yield from (text for text in row if text is not None)

    return list(itertools.islice(in_turns(), count))
