"""The arrays of a text against the slow form: regular expressions and strings."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.sources import demo_documents
from kaiyuan.corpus.text import Text, mixed, ngrams, pieces, sample
from kaiyuan.corpus.units import units

TRICKY = [
    "", " ", "\n\n", "Don't 说 GPT-4 好, naïve café！10%", "々〇𠮷かなカナ", "'tis rock'n'roll 'em a''b a'",
    "\U0001f600 한국어 x\u00a0y", "\U0003ffff𠮷\U00100000", "a\n\n b \n\n\n c\n", "İstanbul STRASSE ẞ", "é́a\u0301",
]  # fmt: skip


def check(text: str) -> None:
    taken = Text(text)
    expected = units(text.lower())
    assert taken.units() == expected
    lines = [line.strip() for line in text.lower().split("\n")]
    numbers = [number for number, line in enumerate(lines) if line]
    assert taken.lines.numbers.tolist() == numbers
    found = [taken.lower[start:end] for start, end in zip(taken.lines.starts, taken.lines.ends, strict=True)]
    assert found == [lines[number] for number in numbers]
    assert taken.lines.units.tolist() == [len(units(line)) for line in found]
    assert taken.visible == max(1, len("".join(text.lower().split())))
    for strings, hashes in ((expected, taken.hashes), (found, taken.lines.hashes)):
        names = dict(zip(hashes.tolist(), strings, strict=True))
        assert [names[value] for value in hashes.tolist()] == strings  # one hash never stands for two strings
        assert len(names) == len(set(strings))  # and equal strings have one


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts(text: str) -> None:
    check(text)


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.one_of(st.sampled_from("ab'’ \n\t的水かー한。.!”"), st.characters(exclude_categories=["Cs"])))
)
def test_any_text(text: str) -> None:
    check(text)


def test_demo_corpus() -> None:
    for number, document in enumerate(demo_documents()):
        if number % 23 == 0:
            check(document.text[:3000])


def test_ends_of_lines() -> None:
    text = "One.\nTwo!”\nthree\n四。\n“五。”\n6...\n7…\n- item\n12) item\n3.x\n「八」\n(Nine.)"
    lines = Text(text).lines
    assert lines.ended.tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1]
    assert lines.trailing_off.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert lines.bulleted.tolist() == [0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0]


SYMBOL = re.compile(r"[#■□◆◇★☆●○►▼▲※]|\.\.\.|…+|[|\\^~<>=_]{2,}")
SENTENCE = re.compile(r"[.!?…]*[.!?…](?=[\s\"'”’)]|\Z)|[。！？]+(?![.!?…])")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='a .…!?。！"”#★|=_<\n水', max_size=30))
def test_symbols_and_sentences(text: str) -> None:
    assert Text(text).symbols == len(SYMBOL.findall(text))
    mixed_marks = re.search("[.!?…][。！？]|[。！？][.!?…]", text)
    if not mixed_marks:
        assert Text(text).sentences == len(SENTENCE.findall(text))


def test_paragraphs_are_set_off_by_blank_lines() -> None:
    taken = Text("one\ntwo\n\n  \nthree\n\nfour\n five")
    starts, ends = taken.lines.paragraphs
    assert [taken.lower[a:b] for a, b in zip(starts, ends, strict=True)] == ["one\ntwo", "three", "four\n five"]


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from kaiyuan.corpus.text import Text; print(Text('river 水').hashes.tolist())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(Text("x 水, River").hashes[[2, 1]].tolist())


def test_ngrams_tell_order() -> None:
    one, other = Text("a b c d a b"), Text("b a")
    grams = ngrams(one.hashes, 2)
    assert len(grams) == 5
    assert grams[0] == grams[4]
    assert len(set(grams.tolist()) | set(ngrams(other.hashes, 2).tolist())) == 5
    assert len(ngrams(other.hashes, 3)) == 0


def test_mixing_spreads_every_bit() -> None:
    values = np.arange(2**12, dtype=np.uint64)
    for bit in range(64):
        assert abs(int(((mixed(values) >> np.uint64(bit)) & np.uint64(1)).sum()) - 2**11) < 5 * 32


def test_long_texts_are_taken_in_pieces() -> None:
    text = "word " * 300 + "\n" + "水" * 500 + "\nend"
    for longest in (7, 100, 10_000):
        found = list(pieces(text, longest))
        assert "".join(found) == text
        assert all(len(piece) <= longest for piece in found)
    assert sample(text, 10_000) == text
    assert len(sample("x" * 10_000, 1000)) <= 1000
    assert sample("ab" * 5000, 1000).startswith("abab")
