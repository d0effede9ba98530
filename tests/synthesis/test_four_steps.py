"""Worked solutions, self-consistency and the balance of what synthesis writes."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl
from kaiyuan.recipe import SynthesisSection, load_recipe
from kaiyuan.run import execute
from kaiyuan.synthesis.checking import solve
from kaiyuan.synthesis.pipeline import AnswerKey, Careless, Solver, Specialist, answers_by_kind, judge, synthesize
from kaiyuan.synthesis.problems import Problem, generate_problems, is_held_out, problems_of_kind, verify
from kaiyuan.synthesis.stage import CONVERSATION, conversations, split_problems
from kaiyuan.synthesis.working import work_out
from tiny_run import write_recipe

STEPWISE = ("addition", "subtraction", "multiplication")
PROBLEMS = generate_problems(4_000, seed=5)


def stepwise() -> list[Problem]:
    problems = generate_problems(4_000, seed=3, kinds=STEPWISE)
    return [problem for problem in problems if not _by_heart(problem)]


def _by_heart(problem: Problem) -> bool:
    return problem.kind == "multiplication" and problem.key.count(":") > 1


def test_worked_solutions_agree_with_the_second_opinion() -> None:
    for problem in stepwise():
        working = work_out(problem)
        assert working is not None
        assert re.search(r"(?:Answer: |答案：)(\d+)$", working)[1] == solve(problem.prompt)  # type: ignore[index]
        assert verify(problem, working) == 1


def test_every_step_is_true_arithmetic() -> None:
    for problem in stepwise():
        for step in re.split(r"[,，] ?", re.split(r"[.。]", work_out(problem) or "")[0]):
            left, right = step.split(" = ")
            numbers = [int(number) for number in re.findall(r"\d+", left)]
            first, others = numbers[0], numbers[1:]
            expected = {
                "addition": sum(numbers),
                "subtraction": first - sum(others),
                "multiplication": math.prod(numbers),
            }
            assert expected[problem.kind] == int(right), step


def test_a_slip_makes_the_answer_wrong() -> None:
    for problem in stepwise():
        assert verify(problem, work_out(problem, slip=1) or "") == 0


def test_steps_are_for_kinds_that_take_them() -> None:
    assert {problem.kind for problem in PROBLEMS if work_out(problem) is not None} == set(STEPWISE)
    by_heart = [problem for problem in PROBLEMS if _by_heart(problem)]
    assert len(by_heart) > 50
    assert all(work_out(problem) is None and len(problem.answer) < 3 for problem in by_heart)


def test_a_majority_counts_what_answers_come_to_and_keeps_the_steps() -> None:
    problem = next(problem for problem in PROBLEMS if problem.kind == "addition")
    working = work_out(problem) or ""
    wrong = work_out(problem, slip=1) or ""
    verdict = judge(problem, [wrong, working, problem.answer])
    assert (verdict.accepted, verdict.rejected) == (working, wrong)
    assert judge(problem, [working, wrong]).reason == "no majority"
    assert judge(problem, [wrong, wrong, working]).reason == "refused by the critic"


def test_verdicts_are_right_and_repeatable() -> None:
    responders = (Specialist(), AnswerKey(), Solver(), Careless(answers_by_kind(PROBLEMS)))
    verdicts = list(synthesize(PROBLEMS, responders, seed=1))
    assert verdicts == list(synthesize(PROBLEMS, responders, seed=1))
    for problem, verdict in zip(PROBLEMS, verdicts, strict=True):
        assert verify(problem, verdict.accepted) == 1
        assert not verdict.rejected or verify(problem, verdict.rejected) == 0
    assert 0.3 < sum(bool(verdict.rejected) for verdict in verdicts) / len(verdicts) < 0.6


def test_a_kind_that_is_used_up_gives_all_it_has() -> None:
    every = problems_of_kind("colour", 10_000, seed=1)
    assert len({(problem.key, problem.prompt) for problem in every}) == len(every) < 1_000
    assert problems_of_kind("colour", 10, seed=1) == every[:10]


def test_training_problems_follow_the_weights_and_none_is_held_out() -> None:
    section = SynthesisSection(samples=3_000, preferences=100, held_out=320, weights={"addition": 3, "colour": 0.5})
    training, held_out = split_problems(section, seed=2)
    counts = Counter(problem.kind for problem in training)
    total = 3_300 / (14 + 3 + 0.5)
    assert counts["addition"] == pytest.approx(3 * total, abs=1)
    assert counts["colour"] == pytest.approx(0.5 * total, abs=1)
    assert {counts[kind] for kind in counts if kind not in ("addition", "colour")} == {round(total + 0.5)}
    assert not {problem.key for problem in training} & {problem.key for problem in held_out}
    assert all(is_held_out(problem.key, 0.1) for problem in held_out)
    assert len(held_out) == 320
    kinds = Counter(problem.kind for problem in held_out)
    assert max(kinds.values()) <= 25, "kinds with enough problems have equally many"
    shuffled = [problem.kind for problem in training]
    assert shuffled != sorted(shuffled)


def test_too_few_held_out_problems_are_an_error() -> None:
    with pytest.raises(DataError, match="problems are held out, the recipe wants 400"):
        split_problems(SynthesisSection(samples=20, preferences=5, held_out=400, kinds=["colour"]), seed=1)


def test_unknown_kinds_are_refused_by_the_recipe() -> None:
    for wrong in ({"kinds": ["astrology"]}, {"weights": {"astrology": 2}}):
        with pytest.raises(ValueError, match="unknown kind 'astrology'; known: addition"):
            SynthesisSection(**wrong)


def test_a_careless_answer_is_of_the_right_sort() -> None:
    careless = Careless(answers_by_kind(PROBLEMS), error_rate=1)
    for problem in PROBLEMS[:500]:
        assert verify(problem, careless.respond(problem, Random(0))) == 0


def test_pairs_go_first_about_questions_that_sft_does_not_train_on(tmp_path: Path) -> None:
    path, run = write_recipe(tmp_path), tmp_path / "run"
    execute(load_recipe(path), run, only="corpus")
    execute(load_recipe(path, ["synthesis.preferences=60", "synthesis.samples=100"]), run, only="synthesis")
    trained = {row["messages"][0]["content"] for row in read_jsonl(run / "synthesis" / "sft.jsonl")}
    seen = [row["messages"][0]["content"] in trained for row in read_jsonl(run / "synthesis" / "preferences.jsonl")]
    assert len(seen) == 60 and not seen[0] and seen[-1]
    assert seen == sorted(seen)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_conversations_are_the_samples_one_after_the_other(share: float) -> None:
    samples = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}],
         "kind": "letter", "language": "en", "key": f"k{n}"}
        for n in range(1000)
    ]  # fmt: skip
    found = conversations(samples, share, seed=4)
    assert found == conversations(samples, share, seed=4)
    assert [message for row in found for message in row["messages"]] == [m for row in samples for m in row["messages"]]
    joined = [row for row in found if row["kind"] == CONVERSATION]
    turns = Counter(len(row["messages"]) // 2 for row in joined)
    assert set(turns) == ({2, 3, 4} if share else set())
    assert abs(sum(count * times for count, times in turns.items()) - 1000 * share) <= 1
    assert [row for row in found if row["kind"] != CONVERSATION] == samples[len(samples) - len(found) + len(joined) :]
    if joined:
        assert joined[0]["key"].split()[:2] == ["k0", "k1"]
