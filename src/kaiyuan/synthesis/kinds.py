"""The kinds of problems: each draws an operation with its numbers or words and knows the answer.

Ranges are chosen so that a model of a few million parameters can learn them within minutes, yet has to learn a rule:
sums of numbers below 100, products up to 12 × 12, letters written apart (a tokenizer hides the letters of a word).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from kaiyuan.synthesis import facts
from kaiyuan.synthesis.draws import Draw, Problem, Sampler, is_held_out, listed

__all__ = ["KINDS", "KNOWLEDGE", "RULES", "SAMPLERS", "Draw", "Problem", "Sampler", "is_held_out", "listed"]


def _numbers(numbers: Sequence[int], language: str) -> dict[str, str]:
    items = [str(number) for number in numbers]
    both, either = (" and ", " or ") if language == "en" else ("和", "或")
    return {
        "list": listed(items, language),
        "both": listed(items, language, both),
        "either": listed(items, language, either),
    }


def addition(rng: Random, language: str) -> Draw:
    """Sums of two digits are facts: they are steps in the solutions of all others."""
    a, b = rng.randrange(100), rng.randrange(100)
    identity = f"add:{min(a, b)}+{max(a, b)}"
    return Draw("add", identity, {"a": str(a), "b": str(b)}, str(a + b), is_fact=max(a, b) < 10)


def subtraction(rng: Random, language: str) -> Draw:
    """Differences that are steps in the solutions of others are facts."""
    b, a = sorted((rng.randrange(100), rng.randrange(100)))
    is_step = b < 10 and a < 10 + b
    return Draw("subtract", f"subtract:{a}-{b}", {"a": str(a), "b": str(b)}, str(a - b), is_fact=is_step)


def multiplication(rng: Random, language: str) -> Draw:
    """Products of two digits are facts, known by heart: they are steps in the solutions of the others."""
    a, b = rng.randrange(1, 13), rng.randrange(1, 13)
    identity = f"multiply:{min(a, b)}*{max(a, b)}"
    return Draw("multiply", identity, {"a": str(a), "b": str(b)}, str(a * b), is_fact=max(a, b) < 10)


def comparison(rng: Random, language: str) -> Draw:
    numbers = rng.sample(range(1, 100), rng.choice((2, 3)))
    largest = rng.random() < 0.5
    english = ("larger", "smaller") if len(numbers) == 2 else ("largest", "smallest")
    word = (english if language == "en" else ("最大", "最小"))[0 if largest else 1]
    identity = f"{'max' if largest else 'min'}:{','.join(map(str, sorted(numbers)))}"
    answer = max(numbers) if largest else min(numbers)
    return Draw("compare", identity, {"word": word, **_numbers(numbers, language)}, str(answer))


def sorting(rng: Random, language: str) -> Draw:
    numbers = rng.sample(range(1, 100), 3)
    ordered = [str(number) for number in sorted(numbers)]
    return Draw("sort", f"sort:{','.join(ordered)}", _numbers(numbers, language), listed(ordered, language))


def succession(rng: Random, language: str) -> Draw:
    number, operation = rng.randrange(1, 1000), rng.choice(("next", "previous"))
    answer = number + 1 if operation == "next" else number - 1
    return Draw(operation, f"{operation}:{number}", {"a": str(number)}, str(answer))


def parity(rng: Random, language: str) -> Draw:
    number = rng.randrange(1, 1000)
    return Draw("parity", f"parity:{number}", {"a": str(number)}, facts.PARITIES[language][number % 2])


def counting(rng: Random, language: str) -> Draw:
    thing, count = rng.randrange(len(facts.OBJECTS["en"])), rng.randrange(1, 10)
    word = facts.OBJECTS[language][thing]
    identity = f"count:{facts.OBJECTS['en'][thing]}*{count}"
    return Draw("count", identity, {"a": word, "list": " ".join([word] * count)}, str(count))


def reversal(rng: Random, language: str) -> Draw:
    letters = rng.sample(facts.LETTERS[language], rng.choice((3, 4, 5)))
    return Draw("reverse", f"reverse:{''.join(letters)}", {"list": " ".join(letters)}, " ".join(reversed(letters)))


def letter(rng: Random, language: str) -> Draw:
    letters, operation = rng.sample(facts.LETTERS[language], rng.choice((3, 4, 5))), rng.choice(("first", "last"))
    answer = letters[0] if operation == "first" else letters[-1]
    return Draw(operation, f"{operation}:{''.join(letters)}", {"list": " ".join(letters)}, answer)


def _cycle(rng: Random, names: dict[str, tuple[str, ...]], language: str, unit: str) -> Draw:
    start, (word, step) = rng.randrange(len(names["en"])), rng.choice((("after", 1), ("before", -1)))
    answer = names[language][(start + step) % len(names[language])]
    operation = f"{unit} {word}"
    return Draw(operation, f"{operation}:{names['en'][start]}", {"a": names[language][start]}, answer, is_fact=True)


def weekday(rng: Random, language: str) -> Draw:
    return _cycle(rng, facts.WEEKDAYS, language, "day")


def month(rng: Random, language: str) -> Draw:
    return _cycle(rng, facts.MONTHS, language, "month")


def opposite(rng: Random, language: str) -> Draw:
    pair = rng.choice(facts.OPPOSITES)
    english, chinese = pair[:2], pair[2:]
    side = rng.randrange(2)
    words = english if language == "en" else chinese
    return Draw("opposite", f"opposite:{english[side]}", {"a": words[side]}, words[1 - side], is_fact=True)


def colour(rng: Random, language: str) -> Draw:
    row = rng.choice(facts.COLOURS)
    thing, answer = row[:2] if language == "en" else row[2:]
    return Draw("colour", f"colour:{row[0]}", {"a": thing}, answer, is_fact=True)


def capital(rng: Random, language: str) -> Draw:
    row = rng.choice(facts.CAPITALS)
    country, city = row[:2] if language == "en" else row[2:]
    if rng.random() < 0.5:
        return Draw("capital", f"capital:{row[0]}", {"a": country}, city, is_fact=True)
    return Draw("country", f"country:{row[1]}", {"a": city}, country, is_fact=True)


def element(rng: Random, language: str) -> Draw:
    english, symbol, chinese = rng.choice(facts.ELEMENTS)
    name = english if language == "en" else chinese
    if rng.random() < 0.5:
        return Draw("symbol", f"symbol:{english}", {"a": name}, symbol, is_fact=True)
    return Draw("element", f"element:{symbol}", {"a": symbol}, name, is_fact=True)


RULES: dict[str, Sampler] = {
    "addition": addition,
    "subtraction": subtraction,
    "multiplication": multiplication,
    "comparison": comparison,
    "sorting": sorting,
    "succession": succession,
    "parity": parity,
    "counting": counting,
    "reversal": reversal,
    "letter": letter,
}
"""Kinds whose answers follow from the prompt."""
KNOWLEDGE: dict[str, Sampler] = {
    "weekday": weekday,
    "month": month,
    "opposite": opposite,
    "colour": colour,
    "capital": capital,
    "element": element,
}
"""Kinds whose answers must be known."""
SAMPLERS: dict[str, Sampler] = {**RULES, **KNOWLEDGE}
KINDS: tuple[str, ...] = tuple(SAMPLERS)
