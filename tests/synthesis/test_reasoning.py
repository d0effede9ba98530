"""Algebra, logic, tables and code: answers confirmed by another route, graded strictly, left out unless asked for."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction
from random import Random

import pytest
import sympy
from test_llm_sandbox import isolated

from kaiyuan.recipe import SynthesisSection
from kaiyuan.synthesis.coding import Step, assertions_of, passes, read_steps, render
from kaiyuan.synthesis.pipeline import AnswerKey, Careless, Solver, Specialist, answers_by_kind, synthesize
from kaiyuan.synthesis.problems import KINDS, REASONING, generate_problems, problems_of_kind, solve, verify
from kaiyuan.synthesis.reasoning import NAMES
from kaiyuan.synthesis.reasoning_phrasings import REASONING_QUESTIONS
from kaiyuan.synthesis.stage import split_problems

PROBLEMS = {kind: problems_of_kind(kind, 600, 5) for kind in REASONING}


@pytest.mark.parametrize("kind", REASONING)
def test_every_answer_is_confirmed_by_the_second_opinion(kind: str) -> None:
    assert [problem for problem in PROBLEMS[kind] if solve(problem.prompt) != problem.answer] == []
    assert Counter(problem.language for problem in PROBLEMS[kind]).keys() == {"en", "zh"}
    assert len({problem.key for problem in PROBLEMS[kind]}) > 300


def test_every_wording_occurs() -> None:
    prompts = [problem.prompt for problems in PROBLEMS.values() for problem in problems]
    for languages in REASONING_QUESTIONS.values():
        for template in (text for texts in languages.values() for text in texts):
            pattern = re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(template)), re.DOTALL)
            assert any(pattern.fullmatch(prompt) for prompt in prompts), template


def test_equations_hold_by_sympy() -> None:
    """A third opinion, by a library: what is written is solved as it stands."""
    x, checked = sympy.Symbol("x"), 0
    for problem in PROBLEMS["algebra"]:
        found = re.search(r"(\d+)x ([+-]) (\d+) = (\d+)", problem.prompt)
        if found:
            a, sign, b, c = found.groups()
            (solution,) = sympy.solve(sympy.Integer(a) * x + (1 if sign == "+" else -1) * sympy.Integer(b) - int(c), x)
            assert Fraction(str(solution)) == int(problem.answer)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("kind", ["algebra", "logic", "tables"])
def test_grading_is_strict_on_the_value_and_tolerant_of_words(kind: str) -> None:
    for problem in PROBLEMS[kind][:200]:
        right = problem.answer
        others = [name for name in NAMES[problem.language] if name != right]
        wrong = str(int(right) + 1) if right.isdigit() else Random(problem.key).choice(others)
        said = "The answer is {}." if problem.language == "en" else "答案是{}。"
        assert verify(problem, right) == verify(problem, said.format(right)) == 1.0
        assert verify(problem, wrong) == verify(problem, said.format(wrong)) == 0.0
        assert verify(problem, f"{right}, {wrong}") == 0.0


@isolated
def test_code_is_graded_by_its_tests() -> None:
    steps = [Step("above", 3), Step("times", 2), Step("sum", 0)]
    prompt = "Write a Python function process(numbers) that " + ", then ".join(step.words("en") for step in steps)
    assert read_steps(prompt) == steps
    assert "assert process([4, -5, 6, 0, -12, 9]) == 38" in assertions_of(prompt)
    assert passes(prompt, render(steps))
    other = "Sure:\n```python\ndef process(numbers):\n    return sum(2 * n for n in numbers if n > 3)\n```"
    assert passes(prompt, other)
    for wrong in (other.replace("> 3", ">= 3"), other.replace("process", "other"), "No.", "", other.replace("2 *", "")):
        assert not passes(prompt, wrong)
    assert not passes("Write a poem in Python.", other)
    for problem in PROBLEMS["code"][:12]:
        assert verify(problem, problem.answer) == 1.0
        assert verify(problem, problem.answer.replace("return ", "return not ")) == 0.0


def test_expected_values_agree_with_python() -> None:
    """The tests' plain loops against the code itself, run by Python's own operations on lists."""
    numbers = [4, -5, 6, 0, -12, 9]
    expected = {
        "even": [4, 6, 0, -12], "odd": [-5, 9], "above": [4, 6, 9], "below": [-5, 0, -12],
        "add": [7, -2, 9, 3, -9, 12], "times": [12, -15, 18, 0, -36, 27], "ascending": sorted(numbers),
        "descending": sorted(numbers, reverse=True), "backwards": list(reversed(numbers)), "sum": 2, "count": 6,
        "largest": 9,
    }  # fmt: skip
    for name, value in expected.items():
        for language in ("en", "zh"):
            prompt = f"Python: {Step(name, 3).words(language)}"
            assert f"assert process({numbers}) == {value}" in assertions_of(prompt), (name, language)


@isolated
def test_the_four_steps_go_through() -> None:
    problems = [problem for problems in PROBLEMS.values() for problem in problems[:6]]
    responders = (Specialist(), AnswerKey(), Solver(), Careless(answers_by_kind(problems), error_rate=1.0))
    verdicts = list(synthesize(problems, responders, 0))
    assert all(verify(problem, verdict.accepted) == 1 for problem, verdict in zip(problems, verdicts, strict=True))
    assert all(verify(p, v.rejected) == 0 for p, v in zip(problems, verdicts, strict=True) if v.rejected)
    assert sum(bool(verdict.rejected) for verdict in verdicts) > 16


def test_they_are_asked_for_by_name_alone() -> None:
    assert not set(REASONING) & set(KINDS)
    assert {problem.kind for problem in generate_problems(300, 0)} <= set(KINDS)
    asked = SynthesisSection(samples=40, preferences=4, held_out=4, kinds=["algebra", "tables"])
    training, held_out = split_problems(asked, 0)
    assert {problem.kind for problem in training} == {problem.kind for problem in held_out} == {"algebra", "tables"}


def test_generation_is_pinned() -> None:
    rows = [list(vars(problem).values()) for kind in REASONING for problem in PROBLEMS[kind][:50]]
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
    assert digest[:16] == "24d28cdb89bbc6eb"
