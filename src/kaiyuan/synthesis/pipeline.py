"""The four steps of synthesis (paper 2.1.1, figure 1), with rule-based workers in every place where a model can stand.

1. Instruction generation: problems drawn from seeds (number ranges, tables of facts, paragraphs of the corpus).
2. Evolution: a plain instruction becomes a more demanding one, or one in other words.
3. Response generation: several responders of different quality answer each instruction.
4. Filtering: the answers must agree (self-consistency), and a critic must accept the one they agree on.

What the responders disagree about is not thrown away: a good and a bad answer to the same instruction are a
preference pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from kaiyuan.synthesis.checking import solve
from kaiyuan.synthesis.grading import final_answer, verify
from kaiyuan.synthesis.kinds import Problem
from kaiyuan.synthesis.working import work_out


class Responder(Protocol):
    """Something that answers: a model behind an API, or a rule."""

    @property
    def name(self) -> str: ...

    def respond(self, problem: Problem, rng: Random) -> str: ...


@dataclass(frozen=True)
class AnswerKey:
    """Answers with what the generator of the problem computed."""

    name: str = "answer key"

    def respond(self, problem: Problem, rng: Random) -> str:
        return problem.answer


@dataclass(frozen=True)
class Solver:
    """Reads the instruction's text and works the answer out by another route than its generator."""

    name: str = "solver"

    def respond(self, problem: Problem, rng: Random) -> str:
        return solve(problem.prompt) or ""


@dataclass(frozen=True)
class Specialist:
    """Writes out the steps where there are any, and is a ``Solver`` elsewhere."""

    name: str = "specialist"

    def respond(self, problem: Problem, rng: Random) -> str:
        return work_out(problem) or solve(problem.prompt) or ""


@dataclass(frozen=True)
class Careless:
    """A weak responder: right as often as not, otherwise with a slip in a step, off by a little, or beside it."""

    answers: Mapping[tuple[str, str], Sequence[str]]
    """Answers that occur, by kind and language."""
    error_rate: float = 0.5
    name: str = "careless"

    def respond(self, problem: Problem, rng: Random) -> str:
        return problem.answer if rng.random() >= self.error_rate else self.mistake(problem, rng)

    def mistake(self, problem: Problem, rng: Random) -> str:
        working = work_out(problem, slip=rng.choice((1, 2)))
        if working is not None:
            return working
        if problem.answer.isdigit():
            right, off = int(problem.answer), rng.choice((-10, -2, -1, 1, 2, 10))
            return str(right + (off if right + off >= 0 else -off))
        others = [answer for answer in self.answers[problem.kind, problem.language] if answer != problem.answer]
        return rng.choice(others) if others else problem.answer[::-1]


def answers_by_kind(problems: Iterable[Problem]) -> dict[tuple[str, str], list[str]]:
    """All different answers of each kind and language, in order of appearance."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for problem in problems:
        found.setdefault((problem.kind, problem.language), {})[problem.answer] = None
    return {key: list(answers) for key, answers in found.items()}


def evolve(problem: Problem, rng: Random) -> Problem:
    """The same problem in a more demanding frame: politely, tersely, or with a wish for the form of the answer."""
    frames = {
        "en": ("{} Answer briefly.", "Please help me: {}", "Quick question. {}", "{}"),
        "zh": ("{}请简短回答。", "请帮帮我：{}", "请问，{}", "{}"),
    }
    prompt = rng.choice(frames[problem.language]).format(problem.prompt)
    return Problem(problem.kind, problem.language, prompt, problem.answer, problem.key)


@dataclass(frozen=True)
class Verdict:
    """What filtering decided about one instruction."""

    problem: Problem
    accepted: str
    """The first response that comes to what most agree on, if the critic accepts it; else empty."""
    rejected: str
    """A response that the critic refuses; empty if there is none."""
    reason: str = ""
    """Why nothing was accepted."""


def judge(problem: Problem, responses: Sequence[str]) -> Verdict:
    """Self-consistency first: more than half must come to the same. Then the critic checks what they agree on."""
    bad = next((response for response in responses if response and verify(problem, response) < 1), "")
    finals = [final_answer(response) for response in responses]
    final, votes = Counter(finals).most_common(1)[0]
    if votes * 2 <= len(responses):
        return Verdict(problem, "", bad, "no majority")
    answer = responses[finals.index(final)]
    if not answer or verify(problem, answer) < 1:
        return Verdict(problem, "", bad, "refused by the critic")
    return Verdict(problem, answer, bad)


def synthesize(
    problems: Iterable[Problem], responders: Sequence[Responder], seed: int, evolve_share: float = 0.3
) -> Iterator[Verdict]:
    """Steps 2 to 4 for generated ``problems``, in order; the same arguments give the same verdicts."""
    for number, problem in enumerate(problems):
        rng = Random(f"synthesis {seed} {number}")
        asked = evolve(problem, rng) if rng.random() < evolve_share else problem
        responses = [responder.respond(problem, rng) for responder in responders]
        verdict = judge(problem, responses)
        yield Verdict(asked, verdict.accepted, verdict.rejected, verdict.reason)
