"""The second opinion on problems of ``reasoning``: from the words alone, by trying all that could be the answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations

from kaiyuan.synthesis.coding import read_steps, render

_THAN = re.compile(r"(\w+) is \w+ than (\w+)\.|([\u4e00-\u9fff]{2})比([\u4e00-\u9fff]{2})[^。]+。")
_SAYS = re.compile(r"It was (not )?(\w+)\.\"|说：“(不)?是([\u4e00-\u9fff]{2})。”")


def solve_reasoning(prompt: str) -> str | None:
    """The answer to a prompt of these kinds; ``None`` if it is none of them."""
    for pattern, solver in _SOLVERS:
        if re.search(pattern, prompt):
            return solver(prompt)
    return None


def _integers(prompt: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", prompt)]


def _linear(prompt: str) -> str:
    a, b, c = _integers(prompt)
    b = -b if re.search(r"- \d|subtract|减", prompt) else b
    return str(next(x for x in range(1000) if sum([x] * a) + b == c))


def _pair(prompt: str) -> str:
    total, apart = _integers(prompt)
    large = next(x for x in range(total + 1) if x - (total - x) == apart)
    return str(total - large if re.search(r"smaller|较小|is y|，y等于", prompt) else large)


def _proportion(prompt: str) -> str:
    count, cost, wanted = _integers(prompt)
    one = next(price for price in range(1, cost + 1) if price * count == cost)
    return str(sum([one] * wanted))


def _order(prompt: str) -> str:
    pairs = [tuple(filter(None, match.groups())) for match in _THAN.finditer(prompt)]
    people = sorted({name for pair in pairs for name in pair})
    fits = [row for row in permutations(people) if all(row.index(one) < row.index(two) for one, two in pairs)]
    (row,) = fits
    return row[-1] if re.search(r"shortest|youngest|slowest|最矮|最年轻|最慢", prompt) else row[0]


def _culprit(prompt: str) -> str:
    sayings = [(match[2] or match[4], not (match[1] or match[3])) for match in _SAYS.finditer(prompt)]
    names = re.findall(r"(\w+) says|([\u4e00-\u9fff]{2})说：", prompt)
    people = [english or chinese for english, chinese in names]
    (culprit,) = (one for one in people if [(who == one) is accused for who, accused in sayings].count(True) == 1)
    return culprit


def _table(prompt: str) -> str:
    lines = [line.strip("| ").split(" | ") for line in prompt.split("\n") if line.startswith("|")]
    head, rows = lines[0], lines[2:]
    question = prompt.rsplit("|", 1)[1]
    asked = [name for name in head[1:] if name in question]
    if not asked:
        (row,) = (row for row in rows if row[0] in question)
        return str(sum(map(int, row[1:])))
    values = {row[0]: int(row[head.index(asked[0])]) for row in rows}
    if re.search("most|最多", question):
        return sorted(values, key=lambda name: -values[name])[0]
    if re.search("more than|超过", question):
        (least,) = _integers(question)
        return str(len([value for value in values.values() if value > least]))
    return str(sum(values.values()))


_SOLVERS: tuple[tuple[str, Callable[[str], str]], ...] = (
    (r"Python", lambda prompt: render(read_steps(prompt))),
    (r"(?m)^\| ---", _table),
    (r"x \+ y =|differ by|相差", _pair),
    (r"tickets cost|张票", _proportion),
    (r"\d+x [+-] \d+ =|think of a number|想一个数", _linear),
    (r"took the key\?|是谁拿的", _culprit),
    (r"is \w+ than \w+\.|[\u4e00-\u9fff]{2}比[\u4e00-\u9fff]{2}[高年跑]", _order),
)
