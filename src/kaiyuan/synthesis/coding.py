"""Small programming tasks: steps over a list of numbers, in words and in Python, and tests that decide.

The tests' expected values come from reading the words, by plain loops: they know nothing of the code. What is tested
runs in the sandbox of ``kaiyuan.synthesis.llm.sandbox``, ours as well as a model's; where there is none it is an error.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

_INPUTS: tuple[tuple[int, ...], ...] = (
    (), (7,), (3, 1, 2), (4, -5, 6, 0, -12, 9), (10, 10, -3, 5, 8, 5), (15, 2, 31, -8, 44, 7, 20),
)  # fmt: skip
_LAST = ("sum", "count", "largest")
_WORDS = {
    "even": ("keeps only the even numbers", "只保留偶数"),
    "odd": ("keeps only the odd numbers", "只保留奇数"),
    "above": ("keeps only numbers greater than {}", "只保留大于{}的数"),
    "below": ("keeps only numbers less than {}", "只保留小于{}的数"),
    "add": ("adds {} to each number", "给每个数加上{}"),
    "times": ("multiplies each number by {}", "把每个数乘以{}"),
    "ascending": ("sorts them in ascending order", "从小到大排序"),
    "descending": ("sorts them in descending order", "从大到小排序"),
    "backwards": ("reverses the list", "把列表倒过来"),
    "sum": ("sums them up", "求它们的和"),
    "count": ("counts them", "数出个数"),
    "largest": ("takes the largest (0 if there is none)", "取最大的数（没有就取0）"),
}
_CODE = {
    "even": "[n for n in numbers if n % 2 == 0]", "odd": "[n for n in numbers if n % 2 == 1]",
    "above": "[n for n in numbers if n > {}]", "below": "[n for n in numbers if n < {}]",
    "add": "[n + {} for n in numbers]", "times": "[n * {} for n in numbers]", "ascending": "sorted(numbers)",
    "descending": "sorted(numbers, reverse=True)", "backwards": "numbers[::-1]", "sum": "sum(numbers)",
    "count": "len(numbers)", "largest": "max(numbers, default=0)",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing that is done to the numbers; ``value`` where its words have a gap."""

    name: str
    value: int

    def words(self, language: str) -> str:
        return _WORDS[self.name][language == "zh"].format(self.value)


def draw_steps(rng: Random) -> list[Step]:
    """Two or three different steps, one number at the end of some."""
    names = rng.sample([name for name in _WORDS if name not in _LAST], rng.choice((1, 2, 2)))
    if len(names) == 1 or rng.random() < 0.5:
        names.append(rng.choice(_LAST))
    return [Step(name, rng.randrange(2, 10)) for name in names]


def render(steps: Sequence[Step]) -> str:
    """Python for ``steps``, as a model would write it: in a block."""
    lines = [f"numbers = {_CODE[step.name].format(step.value)}" for step in steps[:-1]]
    lines.append(f"return {_CODE[steps[-1].name].format(steps[-1].value)}")
    return "```python\ndef process(numbers):\n" + "\n".join(f"    {line}" for line in lines) + "\n```"


def read_steps(prompt: str) -> list[Step]:
    """The steps that a prompt's words ask for, in their order."""
    language = re.search("[\u4e00-\u9fff]", prompt) is not None
    found = []
    for name, words in _WORDS.items():
        pattern = re.escape(words[language]).replace(r"\{\}", r"(\d+)")
        found += [(match.start(), name, int((*match.groups(), "0")[0])) for match in re.finditer(pattern, prompt)]
    return [Step(name, value) for _, name, value in sorted(found)]


def assertions_of(prompt: str) -> list[str]:
    """Assertions that what the prompt asks for fulfils, by plain loops over its words."""
    steps = read_steps(prompt)
    return [f"assert process({list(numbers)}) == {_carried_out(steps, list(numbers))}" for numbers in _INPUTS]


def _carried_out(steps: Sequence[Step], numbers: list[int]) -> list[int] | int:
    result: list[int] | int = numbers
    for step in steps:
        assert isinstance(result, list)
        result = _one(step, result)
    return result


def _one(step: Step, numbers: list[int]) -> list[int] | int:
    if step.name in ("sum", "count", "largest"):
        total = best = 0
        for place, number in enumerate(numbers):
            total += number if step.name == "sum" else 1
            best = number if place == 0 or number > best else best
        return best if step.name == "largest" else total
    found: list[int] = []
    for number in numbers:
        if step.name in ("ascending", "descending"):
            ahead = [known for known in found if (known <= number if step.name == "ascending" else known >= number)]
            found.insert(len(ahead), number)
        elif step.name == "backwards":
            found.insert(0, number)
        elif step.name in ("add", "times"):
            found.append(sum([number] * step.value) if step.name == "times" else number + step.value)
        elif _is_kept(step, number):
            found.append(number)
    return found


def _is_kept(step: Step, number: int) -> bool:
    if step.name in ("above", "below"):
        return number > step.value if step.name == "above" else number < step.value
    return str(number)[-1] in ("02468" if step.name == "even" else "13579")


@lru_cache(maxsize=65_536)
def passes(prompt: str, response: str) -> bool:
    """Whether the code in ``response`` passes the tests of ``prompt`` in the sandbox."""
    from kaiyuan.synthesis.llm.config import SandboxSettings
    from kaiyuan.synthesis.llm.sandbox import Sandbox, python_code

    code = python_code(response)
    if not code or not read_steps(prompt):
        return False

    async def run() -> bool:
        return (await Sandbox(SandboxSettings(seconds=5.0, memory_mb=256)).run(code, assertions_of(prompt))).passed

    return asyncio.run(run())
