"""Generated problems with verified answers, in English and Chinese: the front door of this part of the package.

For example::

    problems = generate_problems(1000, seed=0)
    train = [problem for problem in problems if not is_held_out(problem.key, 0.1)]
    reward = verify(train[0], "The answer is 42.")
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

from kaiyuan.errors import ConfigError, DataError
from kaiyuan.synthesis.checking import solve
from kaiyuan.synthesis.grading import verify
from kaiyuan.synthesis.kinds import KINDS, KNOWLEDGE, RULES, Problem, is_held_out
from kaiyuan.synthesis.reasoning import ALL_KINDS, ALL_SAMPLERS, REASONING
from kaiyuan.synthesis.statements import recall_document, statement_documents

__all__ = [
    "ALL_KINDS",
    "KINDS",
    "KNOWLEDGE",
    "REASONING",
    "RULES",
    "Problem",
    "generate_problems",
    "is_held_out",
    "problems_of_kind",
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
    """``count`` different problems of ``kinds`` (default: ``KINDS``), drawn evenly over kinds and languages.

    The same arguments give the same problems on every machine, and a smaller ``count`` gives the beginning of the same
    list. No two have both key and prompt in common. Raises ``ConfigError`` for an unknown kind or language and
    ``DataError`` if there are not that many different problems.
    """
    open_kinds = list(_checked(kinds if kinds is not None else KINDS, ALL_KINDS, "kind"))
    drawn = list(itertools.islice(_draws(open_kinds, languages, f"problems {seed}"), count))
    if len(drawn) < count:
        raise DataError(f"only {len(drawn)} different problems can be generated, not {count}; ask for less")
    return drawn


def problems_of_kind(kind: str, count: int, seed: int, languages: Sequence[str] = LANGUAGES) -> list[Problem]:
    """``count`` different problems of one kind, or all there are if those are fewer."""
    draws = _draws(list(_checked([kind], ALL_KINDS, "kind")), languages, f"problems of {kind} {seed}")
    return list(itertools.islice(draws, count))


def _draws(open_kinds: list[str], languages: Sequence[str], seed: str) -> Iterator[Problem]:
    """Different problems, evenly over kinds and languages, until all kinds are used up."""
    languages = _checked(languages, LANGUAGES, "language")
    rng = Random(seed)
    seen: set[tuple[str, str]] = set()
    misses = dict.fromkeys(open_kinds, 0)
    while open_kinds:
        kind, language = rng.choice(open_kinds), rng.choice(languages)
        draw = ALL_SAMPLERS[kind](rng, language)
        problem = draw.problem(kind, language, rng.randrange(len(draw.wordings(language))))
        if (problem.key, problem.prompt) in seen:
            misses[kind] += 1
            if misses[kind] >= _MISSES:
                open_kinds.remove(kind)
            continue
        misses[kind] = 0
        seen.add((problem.key, problem.prompt))
        yield problem


def _checked(names: Sequence[str], known: Sequence[str], what: str) -> Sequence[str]:
    """``names``, if there are any and all are known."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = ", ".join(map(repr, unknown)) or "(none given)"
        raise ConfigError(f"unknown {what} {wrong}; known: {', '.join(known)}")
    return names
