"""A labelled set of duplicates: texts of the demo corpus, edits of known kinds and degrees, and hard negatives.

``LABELLED`` says of every kind of edit whether its result is a duplicate at a Jaccard similarity of 0.8. Degrees are
chosen so that most lie well on their side and some near the threshold.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from kaiyuan.corpus.sources import Document, demo_documents, document_id
from kaiyuan.corpus.units import units


@dataclass(frozen=True)
class Case:
    """A document with the base that it was made from, how, and whether it is a duplicate of that base."""

    document: Document
    base: int
    kind: str
    duplicate: bool


FOOTERS = {
    "en": "\n\nThis text was brought to you by the readers of our library, who ask you to share it with your friends.",
    "zh": "\n\n本文由热心读者录入整理，欢迎转载，请注明出处，谢谢大家的支持与关注。",
}
JOINTS = {"en": " ", "zh": ""}

Edit = Callable[[list[str], random.Random, str, list[str]], str]


def joined(words: list[str], language: str) -> str:
    """A text again: sentences of twelve words, paragraphs of five sentences."""
    end = ". " if language == "en" else "。"
    sentences = [JOINTS[language].join(words[start : start + 12]) for start in range(0, len(words), 12)]
    paragraphs = [end.join(sentences[start : start + 5]) for start in range(0, len(sentences), 5)]
    return (end.strip() + "\n\n").join(paragraphs) + end.strip()


def replaced(share: float) -> Edit:
    """Single words exchanged for others, evenly spread."""

    def edit(words: list[str], rng: random.Random, language: str, others: list[str]) -> str:
        copy = list(words)
        for place in rng.sample(range(len(copy)), max(1, round(share * len(copy)))):
            copy[place] = rng.choice(others)
        return joined(copy, language)

    return edit


def cut(share: float) -> Edit:
    """Without its end."""
    return lambda words, rng, language, others: joined(words[: round(len(words) * (1 - share))], language)


def grown(share: float) -> Edit:
    """With a passage of another text at its end."""
    return lambda words, rng, language, others: joined(
        [*words, *others[: round(len(words) * share / (1 - share))]], language
    )


def disguised(words: list[str], rng: random.Random, language: str, others: list[str]) -> str:
    return joined(words, language).upper().replace(".", " --").replace("\n", "\n ").replace("。", "，")


def with_footer(words: list[str], rng: random.Random, language: str, others: list[str]) -> str:
    return joined(words, language) + FOOTERS[language]


def moved(words: list[str], rng: random.Random, language: str, others: list[str]) -> str:
    """Two halves in the other order."""
    half = len(words) // 2
    return joined(words[half:] + words[:half], language)


def template(words: list[str], rng: random.Random, language: str, others: list[str]) -> str:
    """A page of the same site: half of it is the same frame."""
    half = len(words) // 2
    return joined([*words[:half], *others[:half]], language)


EDITS: dict[str, tuple[Edit, bool]] = {
    "disguised": (disguised, True), "footer": (with_footer, True), "moved": (moved, True),
    "replaced 0.5%": (replaced(0.005), True), "replaced 1%": (replaced(0.01), True),
    "cut 5%": (cut(0.05), True), "cut 12%": (cut(0.12), True), "grown 5%": (grown(0.05), True),
    "grown 12%": (grown(0.12), True),
    "replaced 6%": (replaced(0.06), False), "replaced 15%": (replaced(0.15), False), "cut 30%": (cut(0.3), False),
    "cut 50%": (cut(0.5), False), "grown 30%": (grown(0.3), False), "template": (template, False),
}  # fmt: skip


def cases(bases: int = 40, seed: int = 3, length: int = 400) -> list[Case]:
    """``bases`` texts in each language of about ``length`` words or characters, each with all its edits."""
    rng = random.Random(seed)
    found: list[Case] = []
    for language in ("en", "zh"):
        stock = [word for document in demo_documents() if document.language == language and document.label != "poetry"
                 for word in units(document.text[:40_000])]  # fmt: skip
        starts = rng.sample(range(0, len(stock) - 4 * length, 2 * length), bases)
        for base, start in enumerate(starts):
            words = stock[start : start + rng.randint(length // 2, length * 3 // 2)]
            others = stock[start + 2 * length :] + stock[: start - length]
            number = base if language == "en" else bases + base
            found.append(_case(joined(words, language), language, number, "base", True))
            for kind, (edit, duplicate) in EDITS.items():
                text = edit(words, random.Random(f"{seed} {number} {kind}"), language, others)
                found.append(_case(text, language, number, kind, duplicate))
    return found


def _case(text: str, language: str, base: int, kind: str, duplicate: bool) -> Case:
    return Case(Document(document_id(text), text, "labelled", language, "books"), base, kind, duplicate)
