"""Worked solutions: the specialised model of this pipeline (paper 2.1.1, step 3), as rules.

A problem that takes several small steps is answered with those steps written out. A small model learns each step from
a table of a hundred entries; the whole answer at once, first digit first, it would have to learn from thousands.
Nothing here is told the answer: numbers are read from the prompt, and the result is what the steps give.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kaiyuan.synthesis.kinds import Problem

_FORM = {"en": "{steps}. Answer: {result}", "zh": "{steps}。答案：{result}"}
_COMMA = {"en": ", ", "zh": "，"}


def work_out(problem: Problem, slip: int = 0) -> str | None:
    """The prompt's solution with its steps, or ``None`` where it takes none.

    A ``slip`` is added in one of the steps, and what follows from it is kept: the mistake of someone who is careless.
    """
    if problem.kind not in _WORKINGS:
        return None
    first, second = (int(digits) for digits in re.findall(r"\d+", problem.prompt))
    if problem.kind == "multiplication" and max(first, second) < 10:
        return None
    steps, result = _WORKINGS[problem.kind](first, second, slip)
    return _FORM[problem.language].format(steps=_COMMA[problem.language].join(steps), result=result)


def _addition(a: int, b: int, slip: int) -> tuple[list[str], int]:
    """38 + 47: ``8 + 7 = 15, 3 + 4 + 1 = 8``."""
    units = a % 10 + b % 10
    carry = units // 10
    tens = a // 10 + b // 10 + carry + slip
    steps = [f"{a % 10} + {b % 10} = {units}", f"{a // 10} + {b // 10} + {carry} = {tens}"]
    return steps, tens * 10 + units % 10


def _subtraction(a: int, b: int, slip: int) -> tuple[list[str], int]:
    """43 - 18: ``13 - 8 = 5, 4 - 1 - 1 = 2``."""
    small, large = min(a, b), max(a, b)
    borrow = int(large % 10 < small % 10)
    top = large % 10 + 10 * borrow
    units, tens = top - small % 10, large // 10 - small // 10 - borrow + slip
    steps = [f"{top} - {small % 10} = {units}", f"{large // 10} - {small // 10} - {borrow} = {tens}"]
    return steps, tens * 10 + units


def _multiplication(a: int, b: int, slip: int) -> tuple[list[str], int]:
    """8 × 12: ``8 × 10 = 80, 8 × 2 = 16``. Their sum is not written out: it may be one that is held out."""
    small, large = min(a, b), max(a, b)
    ten, rest = small * 10, small * (large - 10) + slip
    return [f"{small} × 10 = {ten}", f"{small} × {large - 10} = {rest}"], ten + rest


_WORKINGS: dict[str, Callable[[int, int, int], tuple[list[str], int]]] = {
    "addition": _addition,
    "subtraction": _subtraction,
    "multiplication": _multiplication,
}
