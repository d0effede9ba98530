"""The second opinion on generated problems: read the prompt, find the answer by another route.

Nothing here looks at how a problem was generated. Numbers are found by counting and by trial rather than by the
operation itself, weekdays and months by the calendar.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from itertools import pairwise, permutations

from kaiyuan.synthesis import facts
from kaiyuan.synthesis.reasoning_checks import solve_reasoning

_SPACED = re.compile(r"(?<!\S)\S(?: \S)+(?!\S)")
_BEFORE = re.compile(r"before|precedes|yesterday|last month|前|上一个|上个月|昨天|^明天|^下月", re.IGNORECASE)


def solve(prompt: str) -> str | None:
    """The answer to a generated ``prompt``, worked out from its words alone; ``None`` if they are not understood."""
    answer = solve_reasoning(prompt)
    if answer is not None:
        return answer
    for pattern, solver in _SOLVERS:
        if re.search(pattern, prompt, re.IGNORECASE):
            return solver(prompt)
    return None


def _integers(prompt: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", prompt)]


def _chinese(prompt: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", prompt) is not None


def _sum(prompt: str) -> str:
    a, b = _integers(prompt)
    return str(next(total for total in range(a, 1000) if len(range(a, total)) == b))


def _difference(prompt: str) -> str:
    small, large = sorted(_integers(prompt))
    return str(sum(1 for _ in range(small, large)))


def _product(prompt: str) -> str:
    a, b = _integers(prompt)
    return str(len([(row, column) for row in range(a) for column in range(b)]))


def _extreme(prompt: str) -> str:
    numbers = _integers(prompt)
    smallest = re.search(r"small|小", prompt) is not None
    return str(next(n for n in numbers if all((n <= m) if smallest else (n >= m) for m in numbers)))


def _ascending(prompt: str) -> str:
    ordered = next(p for p in permutations(_integers(prompt)) if all(a <= b for a, b in pairwise(p)))
    return ("、" if _chinese(prompt) else ", ").join(map(str, ordered))


def _following(prompt: str) -> str:
    (number,) = _integers(prompt)
    return str(next(n for n in range(1100) if n > number))


def _preceding(prompt: str) -> str:
    (number,) = _integers(prompt)
    return str(next(n for n in range(1100, -1, -1) if n < number))


def _parity(prompt: str) -> str:
    even = re.search(r"\d+", prompt)[0][-1] in "02468"  # type: ignore[index]
    return ("偶数" if even else "奇数") if _chinese(prompt) else ("even" if even else "odd")


def _count(prompt: str) -> str:
    words = re.split(r"[:：]", prompt)[-1].strip("?？.。 ").split(" ")
    return str(len(words)) if len(set(words)) == 1 else "0"


def _letters(prompt: str) -> list[str]:
    tail = re.sub(r"[?？.。:：，]", " \n", prompt)
    return max(_SPACED.findall(tail), key=len).split(" ")


def _backwards(prompt: str) -> str:
    backwards: list[str] = []
    for letter in _letters(prompt):
        backwards.insert(0, letter)
    return " ".join(backwards)


def _weekday(prompt: str) -> str:
    names = facts.WEEKDAYS["zh" if _chinese(prompt) else "en"]
    (named,) = (name for name in names if name in prompt)
    week = [datetime.date(2024, 1, day) for day in range(1, 8)]  # 1 January 2024 was a Monday
    (day,) = (day for day in week if names[day.weekday()] == named)
    step = datetime.timedelta(-1 if _BEFORE.search(prompt) else 1)
    return names[(day + step).weekday()]


def _month(prompt: str) -> str:
    names = facts.MONTHS["zh" if _chinese(prompt) else "en"]
    named = max((name for name in names if name in prompt), key=len)
    middle = datetime.date(2023, names.index(named) + 1, 15)
    step = datetime.timedelta(-30 if _BEFORE.search(prompt) else 30)
    return names[(middle + step).month - 1]


def _looked_up(*tables: dict[str, str]) -> Callable[[str], str | None]:
    """A solver that finds the longest word of the tables in the prompt and answers with what they say."""
    merged = {word: answer for table in tables for word, answer in table.items()}

    def solver(prompt: str) -> str | None:
        found = [word for word in merged if _contains(prompt, word)]
        return merged[max(found, key=len)] if found else None

    return solver


def _contains(text: str, word: str) -> bool:
    """Whether ``word`` occurs: anywhere for Chinese, as a whole word otherwise."""
    return word in text if _chinese(word) else re.search(rf"(?<![A-Za-z]){word}(?![A-Za-z])", text) is not None


def _element_or_symbol(prompt: str) -> str | None:
    for english, symbol, chinese in facts.ELEMENTS:
        if _contains(prompt, english) or chinese in prompt:
            return symbol
    for english, symbol, chinese in facts.ELEMENTS:
        if _contains(prompt, symbol):
            return chinese if _chinese(prompt) else english
    return None


def _both_ways(rows: tuple[tuple[str, str, str, str], ...]) -> dict[str, str]:
    pairs = [pair for row in rows for pair in (row[:2], row[2:])]
    return {**dict(pairs), **{second: first for first, second in pairs}}


_COLOURS = {thing: colour for row in facts.COLOURS for thing, colour in (row[:2], row[2:])}
_SOLVERS: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    (r"how many (?:times|words)|count the words|写了几个|几个词|出现了几次", _count),
    (r"revers|backward|倒|反过来", _backwards),
    (r"\bfirst\b|第一个", lambda prompt: _letters(prompt)[0]),
    (r"last letter|comes last|最后一个", lambda prompt: _letters(prompt)[-1]),
    (r"opposite|antonym|反义|相反", _looked_up(_both_ways(facts.OPPOSITES))),
    (r"\bsort\b|ascending|increasing|从小到大", _ascending),
    (r"large|small|最大|最小", _extreme),
    (r"\beven\b|偶数", _parity),
    (r"colour|颜色", _looked_up(_COLOURS)),
    (r"capital|首都", _looked_up(_both_ways(facts.CAPITALS))),
    (r"symbol|元素|化学符号", _element_or_symbol),
    ("|".join([*facts.MONTHS["en"], "几月"]), _month),
    ("|".join([*facts.WEEKDAYS["en"], "星期几"]), _weekday),
    (r"\+|plus|\bsum\b|put in|加|之?和|放进", _sum),
    (r" - |minus|subtract|taken out|减|拿走", _difference),
    (r"×|multiplied|乘", _product),
    (r"before|precedes|前|上一个", _preceding),
    (r"after|follows|后|下一个", _following),
)
"""What a prompt says, and who solves it; the first that matches counts."""
