"""Grading of responses to generated problems: strict on the value, tolerant of the words around it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from kaiyuan.synthesis import facts
from kaiyuan.synthesis.coding import passes
from kaiyuan.synthesis.kinds import Problem
from kaiyuan.synthesis.reasoning import NAMES

_NUMBER = re.compile(r"(?<![0-9A-Za-z.])-?\d+(?:\.\d+)?%?(?![0-9A-Za-z])")
_ANSWER_MARK = re.compile(r"answer(?: is|:)+|答案(?:是|为|:)+", re.IGNORECASE)
_VERB = re.compile(r".*(?:\b(?:is|are|equals|becomes?)\b|[=:]|是|为|叫|等于)", re.DOTALL | re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor)\b|n't\b|不是|不为|并非|没有", re.IGNORECASE)
_LISTING = r"(?:[,、;/|]|\b(?:or|and)\b|或者?|和|还是)"
_EDGES = " \t\r\n.,;:!?\"'“”‘’。、·*`()"


def verify(problem: Problem, response: str) -> float:
    """1.0 if the final answer of ``response`` is right, else 0.0.

    Words around the answer, white space, quotation marks and final punctuation do not matter. The value must be exact
    ("421" and "-42" are not "42"), and it must be the only one offered: numbers and words of the question may be
    repeated in a sentence, other candidates may not. After a single "answer:" or "答案：" only what follows counts.
    """
    if problem.kind == "code":
        return float(passes(problem.prompt, response))
    text = _normal(response)
    marked = _ANSWER_MARK.split(text)
    if len(marked) == 2:
        text = marked[1]
    if _NEGATION.search(text):
        return 0.0
    answer = _normal(problem.answer)
    if problem.kind in ("reversal", "letter"):
        return float(_letters(answer) in (_letters(text), _letters(_tail(text))))
    if problem.kind == "sorting":
        return float(_sorted_right(answer, text, _normal(problem.prompt)))
    candidate = _candidate(problem)
    return float(_one_right(candidate, answer, text, _normal(problem.prompt)))


def final_answer(response: str) -> str:
    """What ``response`` comes to: the text after "answer:" or "答案：", all of it if there is no such word."""
    return _ANSWER_MARK.split(_normal(response))[-1].strip()


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def _tail(text: str) -> str:
    """What follows the last verb, equals sign or colon: where a sentence that repeats the question has its answer."""
    return _VERB.sub("", text).strip(_EDGES)


def _letters(text: str) -> str:
    return re.sub(r"[\s,、-]+", "", text.strip(_EDGES)).lower()


def _sorted_right(answer: str, text: str, prompt: str) -> bool:
    numbers = _NUMBER.findall(answer)
    if _NUMBER.findall(text) == numbers:
        return True
    before = text[: len(text) - len(_VERB.sub("", text))]
    return _NUMBER.findall(_tail(text)) == numbers and set(_NUMBER.findall(before)) <= set(_NUMBER.findall(prompt))


def _one_right(candidate: re.Pattern[str], answer: str, text: str, prompt: str) -> bool:
    """Whether ``answer`` is the one value offered, apart from values of the prompt that a sentence repeats."""
    values = {_fold(value, answer) for value in candidate.findall(text)}
    asked = {_fold(value, answer) for value in candidate.findall(prompt)}
    if answer not in values or values - asked - {answer}:
        return False
    if len(values) == 1:
        return candidate is _NUMBER or not _in_list(answer, text)
    if _tail(text).lower() == answer.lower():
        return True
    return answer not in asked and not _in_list(answer, text) and _has_words(candidate, text)


def _fold(value: str, answer: str) -> str:
    """``value`` in the answer's spelling if they differ in case alone."""
    return answer if value.lower() == answer.lower() else value.lower()


def _in_list(answer: str, text: str) -> bool:
    quoted = rf"[\"'“”]?{re.escape(answer)}[\"'“”]?"
    body = text.strip(_EDGES)
    return re.search(rf"{_LISTING}\s*{quoted}|{quoted}\s*{_LISTING}", body, re.IGNORECASE) is not None


def _has_words(candidate: re.Pattern[str], text: str) -> bool:
    """Whether anything but a list of values is there."""
    return bool(re.sub(_LISTING, "", candidate.sub("", text)).strip(_EDGES))


def _candidate(problem: Problem) -> re.Pattern[str]:
    """What counts as an answer to this problem, right or wrong: any number, or the words of its table."""
    if problem.kind in ("logic", "tables") and not problem.answer.isdigit():
        return _any_of(NAMES[problem.language])
    if problem.kind == "element":
        return _words_of_elements(problem.answer)
    return _words_of_kind(problem.kind, problem.language)


@cache
def _words_of_kind(kind: str, language: str) -> re.Pattern[str]:
    tables: dict[str, Sequence[str]] = {
        "parity": facts.PARITIES[language],
        "weekday": facts.WEEKDAYS[language],
        "month": facts.MONTHS[language],
        "opposite": [word for row in facts.OPPOSITES for word in row],
        "colour": [colour for row in facts.COLOURS for colour in (row[1], row[3])],
        "capital": [place for row in facts.CAPITALS for place in row],
    }
    return _any_of(tables[kind], re.IGNORECASE) if kind in tables else _NUMBER


@cache
def _words_of_elements(answer: str) -> re.Pattern[str]:
    """The columns of the table that ``answer`` stands in; in that of symbols, the case of letters matters."""
    columns = [column for column in zip(*facts.ELEMENTS, strict=True) if answer in column]
    is_symbol = answer.isascii() and answer[0].isupper()
    return _any_of([word for column in columns for word in column], 0 if is_symbol else re.IGNORECASE)


def _any_of(words: Sequence[str], flags: int = 0) -> re.Pattern[str]:
    longest_first = sorted(set(words), key=len, reverse=True)
    spelled = "|".join(re.escape(word) if word.isascii() else word for word in longest_first)
    return re.compile(rf"(?<![A-Za-z])(?:{spelled})(?![A-Za-z])", flags)
