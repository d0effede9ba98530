"""Generated problems with verified answers, in English and Chinese: the front door of this part of the package.

For example::

    problems = generate_problems(1000, seed=0)
    train = [problem for problem in problems if not is_held_out(problem.key, 0.1)]
    reward = verify(train[0], "The answer is 42.")
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from kaiyuan.errors import ConfigError, DataError
from kaiyuan.synthesis.checking import solve
from kaiyuan.synthesis.grading import verify
from kaiyuan.synthesis.kinds import KINDS, KNOWLEDGE, RULES, SAMPLERS, Problem, is_held_out
from kaiyuan.synthesis.phrasings import QUESTIONS
from kaiyuan.synthesis.statements import recall_document, statement_documents

__all__ = [
    "KINDS",
    "KNOWLEDGE",
    "RULES",
    "Problem",
    "generate_problems",
    "is_held_out",
    "recall_document",
    "solve",
    "statement_documents",
    "verify",
]

LANGUAGES = ("en", "zh")
_MISSES = 2_000
"""A kind that yields nothing new so many times in a row counts as used up."""


def generate_problems(
    count: int,
    seed: int,
    kinds: Sequence[str] | None = None,
    languages: Sequence[str] = LANGUAGES,
) -> list[Problem]:
    """``count`` different problems of ``kinds`` (default: all), drawn evenly over kinds and languages.

    The same arguments give the same problems on every machine, and a smaller ``count`` gives the beginning of the same
    list. No two have both key and prompt in common. Raises ``ConfigError`` for an unknown kind or language and
    ``DataError`` if there are not that many different problems.
    """
    open_kinds = list(_checked(kinds if kinds is not None else KINDS, KINDS, "kind"))
    languages = _checked(languages, LANGUAGES, "language")
    rng = Random(f"problems {seed}")
    problems: dict[tuple[str, str], Problem] = {}
    misses = dict.fromkeys(open_kinds, 0)
    while len(problems) < count:
        kind, language = rng.choice(open_kinds), rng.choice(languages)
        draw = SAMPLERS[kind](rng, language)
        problem = draw.problem(kind, language, rng.randrange(len(QUESTIONS[draw.operation][language])))
        if problems.setdefault((problem.key, problem.prompt), problem) is problem:
            misses[kind] = 0
            continue
        misses[kind] += 1
        if misses[kind] >= _MISSES:
            open_kinds.remove(kind)
        if not open_kinds:
            raise DataError(f"only {len(problems)} different problems can be generated, not {count}; ask for less")
    return list(problems.values())


def _checked(names: Sequence[str], known: Sequence[str], what: str) -> Sequence[str]:
    """``names``, if there are any and all are known."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = ", ".join(map(repr, unknown)) or "(none given)"
        raise ConfigError(f"unknown {what} {wrong}; known: {', '.join(known)}")
    return names
