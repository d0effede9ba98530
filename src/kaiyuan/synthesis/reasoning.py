"""Kinds of problems that take several steps of thought: algebra, logic, tables, and code with tests.

They are no part of the default mixture, which small models learn within minutes: a recipe asks for them by name in
``synthesis.kinds``. ``reasoning_checks`` confirms every answer by another route; code must pass tests in a sandbox.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from kaiyuan.synthesis.coding import draw_steps, render
from kaiyuan.synthesis.draws import Draw, Sampler, listed
from kaiyuan.synthesis.kinds import KINDS, SAMPLERS

NAMES = {
    "en": ("Anna", "Boris", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivan", "Jun"),
    "zh": ("小明", "小红", "小刚", "小丽", "小华", "小芳", "小强", "小美", "小军", "小雨"),
}
_GOODS = {"en": ("apples", "pears", "plums", "melons"), "zh": ("苹果", "梨", "李子", "西瓜")}
_HEAD = {"en": "name", "zh": "姓名"}
_ORDERS = (
    # more, most, least; in English and Chinese
    {"en": ("taller than", "tallest", "shortest"), "zh": ("高", "最高", "最矮")},
    {"en": ("older than", "oldest", "youngest"), "zh": ("年长", "最年长", "最年轻")},
    {"en": ("faster than", "fastest", "slowest"), "zh": ("跑得快", "跑得最快", "跑得最慢")},
)


def algebra(rng: Random, language: str) -> Draw:
    return rng.choice((_linear, _linear, _pair, _proportion))(rng, language)


def _linear(rng: Random, language: str) -> Draw:
    a, x, b = rng.randrange(2, 13), rng.randrange(1, 31), rng.randrange(1, 50)
    minus = a * x > b and rng.random() < 0.5
    c = a * x - b if minus else a * x + b
    fields = {"a": str(a), "b": str(b), "c": str(c)}
    return Draw("linear minus" if minus else "linear", f"linear:{a},{-b if minus else b},{c}", fields, str(x))


def _pair(rng: Random, language: str) -> Draw:
    small, apart, largest = rng.randrange(1, 60), rng.randrange(1, 40), rng.random() < 0.5
    word = (("larger", "smaller") if language == "en" else ("较大", "较小"))[not largest]
    fields = {"a": str(2 * small + apart), "b": str(apart), "word": word, "letter": "x" if largest else "y"}
    identity = f"pair:{small},{apart},{'x' if largest else 'y'}"
    return Draw("pair", identity, fields, str(small + apart if largest else small))


def _proportion(rng: Random, language: str) -> Draw:
    count, price, wanted = rng.randrange(2, 13), rng.randrange(2, 21), rng.randrange(2, 21)
    fields = {"a": str(count), "b": str(count * price), "c": str(wanted)}
    return Draw("proportion", f"proportion:{count},{price},{wanted}", fields, str(wanted * price))


def logic(rng: Random, language: str) -> Draw:
    return _order(rng, language) if rng.random() < 0.5 else _culprit(rng, language)


def _order(rng: Random, language: str) -> Draw:
    """A chain of comparisons in any order; who stands at one of its ends?"""
    people, kind = rng.sample(range(len(NAMES["en"])), rng.choice((3, 4, 5))), rng.randrange(len(_ORDERS))
    more, most, least = _ORDERS[kind][language]
    names, end = [NAMES[language][person] for person in people], rng.choice((0, -1))
    form = "{} is {} {}." if language == "en" else "{0}比{2}{1}。"
    clues = [form.format(above, more, below) for above, below in pairwise(names)]
    rng.shuffle(clues)
    fields = {"clues": (" " if language == "en" else "").join(clues), "word": least if end else most}
    return Draw("order", f"order:{kind},{end},{people}", fields, names[end])


def _culprit(rng: Random, language: str) -> Draw:
    """Everybody accuses or clears somebody, one of them truly; drawn until this leaves one culprit."""
    people = rng.sample(range(len(NAMES["en"])), 3)
    while True:
        sayings = [(rng.randrange(3), rng.random() < 0.5) for _ in people]
        possible = [one for one in range(3) if sum((who == one) == accused for who, accused in sayings) == 1]
        if len(possible) == 1:
            break
    names = [NAMES[language][person] for person in people]
    forms = (('{} says: "It was not {}."', '{} says: "It was {}."') if language == "en"
             else ("{}说：“不是{}。”", "{}说：“是{}。”"))  # fmt: skip
    clues = [forms[accused].format(name, names[who]) for name, (who, accused) in zip(names, sayings, strict=True)]
    joint = " and " if language == "en" else "和"
    fields = {"people": listed(names, language, joint), "clues": (" " if language == "en" else "").join(clues)}
    return Draw("culprit", f"culprit:{people},{sayings}", fields, names[possible[0]])


def tables(rng: Random, language: str) -> Draw:
    people = rng.sample(range(len(NAMES["en"])), rng.choice((3, 4, 5)))
    goods = rng.sample(range(len(_GOODS["en"])), rng.choice((2, 3)))
    cells = [rng.sample(range(1, 60), len(people)) for _ in goods]
    operation = rng.choice(("table total", "table most", "table row", "table count"))
    column, row, least = rng.randrange(len(goods)), rng.randrange(len(people)), rng.randrange(5, 50)
    answer = {
        "table total": str(sum(cells[column])),
        "table most": NAMES[language][people[cells[column].index(max(cells[column]))]],
        "table row": str(sum(of_one[row] for of_one in cells)),
        "table count": str(sum(cell > least for cell in cells[column])),
    }[operation]
    head = [_HEAD[language], *(_GOODS[language][good] for good in goods)]
    body = [[NAMES[language][person], *(str(of_one[n]) for of_one in cells)] for n, person in enumerate(people)]
    lines = [head, ["---"] * len(head), *body]
    fields = {
        "table": "\n".join(f"| {' | '.join(line)} |" for line in lines), "column": head[column + 1],
        "person": NAMES[language][people[row]], "a": str(least),
    }  # fmt: skip
    return Draw(operation, f"{operation}:{people},{goods},{cells},{column},{row},{least}", fields, answer)


def code(rng: Random, language: str) -> Draw:
    steps = draw_steps(rng)
    fields = {"steps": (", then " if language == "en" else "，然后").join(step.words(language) for step in steps)}
    return Draw("code", f"code:{'|'.join(step.words('en') for step in steps)}", fields, render(steps))


REASONING: dict[str, Sampler] = {"algebra": algebra, "logic": logic, "tables": tables, "code": code}
"""Kinds for recipes that ask for them."""
ALL_SAMPLERS: dict[str, Sampler] = {**SAMPLERS, **REASONING}
ALL_KINDS: tuple[str, ...] = (*KINDS, *REASONING)
