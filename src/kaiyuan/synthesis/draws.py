"""A problem, and what it is before it is put into words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from kaiyuan.synthesis.phrasings import QUESTIONS, STATEMENTS
from kaiyuan.synthesis.reasoning_phrasings import REASONING_QUESTIONS


@dataclass(frozen=True)
class Problem:
    """A question with its one right answer."""

    kind: str
    """One of ``kinds.KINDS`` or ``reasoning.KINDS``."""
    language: str
    """"en" or "zh"."""
    prompt: str
    answer: str
    """The bare value: "42", "Paris", "巴黎"."""
    key: str
    """What problem it is underneath the wording, such as "add:17+25": held out means held out in every phrasing and
    language. Facts cannot be inferred, so their keys have the prompt too: held out is a known fact asked anew."""


def is_held_out(key: str, share: float) -> bool:
    """Whether the problem with this key is among the ``share`` (0 to 1) kept for evaluation; its hash decides."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") < share * 2**64


@dataclass(frozen=True)
class Draw:
    """A problem before it is put into words."""

    operation: str
    """Names its wordings."""
    identity: str
    fields: dict[str, str]
    answer: str
    is_fact: bool = False

    def wordings(self, language: str) -> tuple[str, ...]:
        """Its questions, to be filled with ``fields``."""
        found = QUESTIONS.get(self.operation) or REASONING_QUESTIONS[self.operation]
        return found[language]

    def problem(self, kind: str, language: str, phrasing: int) -> Problem:
        """The problem in the given wording: an index into ``wordings(language)``."""
        prompt = self.wordings(language)[phrasing].format(**self.fields)
        key = f"{self.identity}:{prompt}" if self.is_fact else self.identity
        return Problem(kind, language, prompt, self.answer, key)

    def statement(self, language: str, phrasing: int) -> str:
        """The answered problem as a sentence: an index into ``STATEMENTS[operation][language]``."""
        return STATEMENTS[self.operation][language][phrasing].format(answer=self.answer, **self.fields)


Sampler = Callable[[Random, str], Draw]


def listed(items: Sequence[str], language: str, joint: str = "") -> str:
    """``5, 17 and 25``: items with commas, and ``joint`` (if any) before the last."""
    comma = ", " if language == "en" else "、"
    if not joint:
        return comma.join(items)
    return f"{comma.join(items[:-1])}{joint}{items[-1]}"
