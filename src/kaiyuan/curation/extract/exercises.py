"""Exercises with solutions: the solution behind its exercise, or in a section of its own under the same number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from kaiyuan.curation.extract.candidate import Block, Candidate, end_of, headings, tidy

_MARK = r"(?:#{1,6}[ \t]+|\*\*|__)*"
_NUMBER = r"[\d一二三四五六七八九十]+(?:[.\-]\d+)*"
_SET = (
    rf"(?:(?:Exercise|Problem|Example|Puzzle)[ \t]+{_NUMBER}|(?:例|练习|习题|题目?|例题|思考题)[ \t]*{_NUMBER}"
    r"|【?(?:例题?|题目)】?(?=[:：】]))"
)
_SOLVED = rf"(?:(?:Solution|Answer|Proof)(?:[ \t]+{_NUMBER})?|解答?|答案|解析|证明|【(?:解答?|答案|解析)】)"
_STOP = r"[ \t]*(?:[:：.．、】]|(?=\*\*|__)|[ \t]|$)(?:\*\*|__)?[ \t]*"
_EITHER = re.compile(
    rf"^[ \t]*{_MARK}(?:(?P<set>{_SET})|(?P<solved>{_SOLVED})(?=[ \t]*(?:[:：.．】]|\*\*|$))){_STOP}", re.MULTILINE
)
_EXERCISES = re.compile(r"^(?:exercises|problems|questions|practice|练习题?|习题|思考题)$", re.IGNORECASE)
_SOLUTIONS = re.compile(r"^(?:(?:answers|solutions)(?: to .*)?|(?:参考)?答案|(?:习题)?解答|答案与解析)$", re.IGNORECASE)
_ITEM = re.compile(r"^[ \t]*(?:\((\d{1,3})\)|（(\d{1,3})）|(\d{1,3})[.)、．])[ \t]*(?=\S)", re.MULTILINE)


def exercises(text: str) -> Iterator[Candidate]:
    yield from _followed(text)
    yield from _apart(text)


def _followed(text: str) -> Iterator[Candidate]:
    """Such as "Exercise 3. ... Solution. ..." and 例1……解：……; an answer ends at the next exercise or heading."""
    marks, starts = list(_EITHER.finditer(text)), [block.start for block in headings(text)]
    for index, (asked, solved) in enumerate(pairwise(marks)):
        if not asked["set"] or not solved["solved"]:
            continue
        following = marks[index + 2].start() if index + 2 < len(marks) else len(text)
        end = min([following, *(start for start in starts if start > solved.start())])
        question, answer = tidy(text[asked.end() : solved.start()]), tidy(text[solved.end() : end])
        if question and answer:
            yield Candidate(question, answer, asked.start(), end_of(text, asked.start(), end), "exercise")


def _apart(text: str) -> Iterator[Candidate]:
    """A section "Exercises" and, later, one "Answers": items of the same number belong together."""
    asked: dict[int, Block] = {}
    for section in headings(text):
        name = section.head.strip("*_ :：")
        if _EXERCISES.match(name):
            asked = _items(section)
        elif asked and _SOLUTIONS.match(name):
            for number, solution in _items(section).items():
                if number in asked:
                    exercise = asked[number]
                    yield Candidate(exercise.body, solution.body, exercise.start, solution.end, "exercise")
            asked = {}


def _items(section: Block) -> dict[int, Block]:
    """The numbered items of a section, as long as the numbers go up: lists inside of an item start anew."""
    offset = section.end - len(section.body)
    marks: list[tuple[int, re.Match[str]]] = []
    for found in _ITEM.finditer(section.body):
        number = int(found[1] or found[2] or found[3])
        if number > marks[-1][0] if marks else number == 1:
            marks.append((number, found))
    items = {}
    for index, (number, found) in enumerate(marks):
        end = marks[index + 1][1].start() if index + 1 < len(marks) else len(section.body)
        body = tidy(section.body[found.end() : end])
        if body:
            start = offset + found.start()
            items[number] = Block("", body, start, end_of(section.body, found.start(), end) + offset)
    return items
