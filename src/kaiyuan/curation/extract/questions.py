"""Pages of questions and answers: lines marked Q and A (问、答), and headings that ask, as in a FAQ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from kaiyuan.curation.extract.candidate import HEADING, Candidate, end_of, headings, tidy

_MARK = r"(?:#{1,6}[ \t]+|[>*\-][ \t]+|\*\*|__)*"
_ASKED = r"(?:Q(?:uestion)?[ \t]*\d{0,4}|问题?[ \t]*[\d一二三四五六七八九十]{0,4}|提问)"
_ANSWERED = r"(?:A(?:nswer)?[ \t]*\d{0,4}|答案?[ \t]*[\d一二三四五六七八九十]{0,4}|回答)"
_EITHER = re.compile(
    rf"^[ \t]*{_MARK}(?:(?P<q>{_ASKED})|(?P<a>{_ANSWERED}))[ \t]*(?:[:：]|[.．、][ \t])(?:\*\*|__)?[ \t]*",
    re.MULTILINE,
)
_ASKS = re.compile(r"[?？]\s*$")
_LONGEST_QUESTION = 2000


def questions(text: str) -> Iterator[Candidate]:
    yield from _marked(text)
    yield from _asking_headings(text)


def _marked(text: str) -> Iterator[Candidate]:
    marks = list(_EITHER.finditer(text))
    for index, (asked, answered) in enumerate(pairwise(marks)):
        if not asked["q"] or not answered["a"]:
            continue
        end = marks[index + 2].start() if index + 2 < len(marks) else len(text)
        if heading := HEADING.search(text, answered.end(), end):
            end = heading.start()
        question, answer = tidy(text[asked.end() : answered.start()]), tidy(text[answered.end() : end])
        if question and answer and len(question) <= _LONGEST_QUESTION:
            yield Candidate(_plain(question), answer, asked.start(), end_of(text, asked.start(), end), "qa")


def _asking_headings(text: str) -> Iterator[Candidate]:
    """Sections whose heading is a question; deeper sections below it belong to the answer."""
    blocks = headings(text)
    for index, block in enumerate(blocks):
        question = tidy(block.head)
        if not _ASKS.search(question) or _EITHER.match(block.head):
            continue
        end = next((other.start for other in blocks[index + 1 :] if other.level <= block.level), len(text))
        answer = tidy(text[text.index("\n", block.start) : end] if "\n" in text[block.start : end] else "")
        if answer and not any(_ASKS.search(other.head) for other in blocks[index + 1 :] if other.start < end):
            yield Candidate(_plain(question), answer, block.start, end_of(text, block.start, end), "qa")


def _plain(question: str) -> str:
    """Without a number in front, as in "3. What is ...?", and without emphasis that was cut in two."""
    question = re.sub(r"^(?:\(?\d{1,3}[.)、．]|[（(][\d一二三四五六七八九十]+[)）])[ \t]*", "", question)
    return question[:-2].rstrip() if question.endswith("**") and question.count("**") % 2 else question
