"""A small tokenizer trained on real text, and text that is hard on tokenizers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from kaiyuan.corpus.sources import demo_documents
from kaiyuan.tokenizer import Tokenizer, train_tokenizer
from kaiyuan.tokenizer.special import special_tokens

NEWER_THAN_THE_LIBRARY = frozenset("\U00011930\U00011935\U00011938")
"""Composed by Python's NFC and not by that of ``tokenizers``, which knows an older Unicode."""

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

texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters=NEWER_THAN_THE_LIBRARY)),
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


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return training_texts()


@pytest.fixture(scope="session")
def tokenizer(corpus: list[str]) -> Tokenizer:
    return train_tokenizer(corpus, 1000)
