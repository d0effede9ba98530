"""Worked solutions: the specialised model of this pipeline (paper 2.1.1, step 3), as rules.

A problem whose answer takes several small steps is answered with those steps written out. A small model learns each
step from a table of a hundred entries; the whole answer at once, first digit first, it would have to learn from
thousands. Nothing here knows the answer: numbers are read from the prompt, and the result is whatever the steps give.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from kaiyuan.synthesis.kinds import Problem

_ANSWER = {"en": "{steps}. Answer: {result}", "zh": "{steps}。答案：{result}"}
_COMMA = {"en": ", ", "zh": "，"}


def work_out(problem: Problem, careless: bool = False) -> str | None:
    """The prompt's solution with its steps, or ``None`` for a kind that takes no steps.

    ``careless`` makes the mistake that people make: carries and borrows are forgotten, the last number is not looked
    at.
    """
    if problem.kind not in _WORKINGS:
        return None
    numbers = [int(digits) for digits in re.findall(r"\d+", problem.prompt)]
    return _WORKINGS[problem.kind](problem, numbers, careless)


def answer_form(language: str, steps: str, result: str) -> str:
    """Steps, then the result after the word that the grading looks for."""
    return _ANSWER[language].format(steps=steps, result=result)


def _addition(problem: Problem, numbers: Sequence[int], careless: bool) -> str:
    """38 + 47: ``8 + 7 = 15, 3 + 4 + 1 = 8``."""
    a, b = numbers
    units = a % 10 + b % 10
    carry = 0 if careless else units // 10
    tens = a // 10 + b // 10 + carry
    steps = (f"{a % 10} + {b % 10} = {units}", f"{a // 10} + {b // 10} + {carry} = {tens}")
    return answer_form(problem.language, _COMMA[problem.language].join(steps), str(tens * 10 + units % 10))


def _subtraction(problem: Problem, numbers: Sequence[int], careless: bool) -> str:
    """43 - 18: ``13 - 8 = 5, 4 - 1 - 1 = 2``."""
    small, large = sorted(numbers)
    borrow = int(large % 10 < small % 10)
    top = large % 10 + 10 * borrow
    borrowed = 0 if careless else borrow
    units, tens = top - small % 10, large // 10 - small // 10 - borrowed
    steps = (f"{top} - {small % 10} = {units}", f"{large // 10} - {small // 10} - {borrowed} = {tens}")
    return answer_form(problem.language, _COMMA[problem.language].join(steps), str(tens * 10 + units))


_WORKINGS: dict[str, Callable[[Problem, Sequence[int], bool], str]] = {
    "addition": _addition,
    "subtraction": _subtraction,
}
