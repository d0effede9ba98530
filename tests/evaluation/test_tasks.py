from __future__ import annotations

import pytest
from rule_engine import RuleEngine

from kaiyuan.evaluation.asking import greedy_answers, line_ends, question_ids
from kaiyuan.evaluation.tasks import evaluate_tasks
from kaiyuan.synthesis.problems import Problem, generate_problems, solve
from kaiyuan.tokenizer import Tokenizer, render_chat

PROBLEMS = [
    Problem("addition", "en", "What is 2 + 3?", "5", "add:2+3"),
    Problem("addition", "zh", "4加5等于多少？", "9", "add:4+5"),
    Problem("capital", "en", "What is the capital of France?", "Paris", "capital:France"),
]


def test_accuracy_in_all_and_by_kind_and_language(tokenizer: Tokenizer) -> None:
    answers = {"2 + 3": "It is 5.", "4加5": "8或9", "France": "Paris"}
    engine = RuleEngine(tokenizer, lambda text: next(answer for part, answer in answers.items() if part in text))
    found = evaluate_tasks(engine, tokenizer, PROBLEMS, 8)  # type: ignore[arg-type]
    assert (found["accuracy"], found["count"]) == (pytest.approx(2 / 3), 3)
    assert found["by_kind"] == {
        "addition": {"accuracy": 0.5, "count": 2}, "capital": {"accuracy": 1.0, "count": 1},
    }  # fmt: skip
    assert found["by_language"] == {"en": {"accuracy": 1.0, "count": 2}, "zh": {"accuracy": 0.0, "count": 1}}
    assert [row["correct"] for row in found["answers"]] == [True, False, True]
    assert found["answers"][1] == {"prompt": "4加5等于多少？", "expected": "9", "answer": "8或9", "correct": False,
                                   "kind": "addition", "language": "zh"}  # fmt: skip


def test_the_chat_template_is_used(tokenizer: Tokenizer) -> None:
    engine = RuleEngine(tokenizer, lambda text: "")
    evaluate_tasks(engine, tokenizer, PROBLEMS, 8)  # type: ignore[arg-type]
    expected = [render_chat(tokenizer, [{"role": "user", "content": problem.prompt}]) for problem in PROBLEMS]
    assert sorted(engine.prompts) == sorted(expected)


def test_a_base_model_is_asked_in_plain_text(tokenizer: Tokenizer) -> None:
    ids = question_ids(tokenizer, "4加5等于多少？", "zh", "plain")
    assert ids[0] == tokenizer.document_end_id
    assert tokenizer.decode(ids[1:]) == "问：4加5等于多少？\n答："
    about = question_ids(tokenizer, "Who?", "en", "plain", "A text.")
    assert tokenizer.decode(about[1:]) == "A text.\n\nQ: Who?\nA:"


def test_a_line_ends_with_every_token_that_has_a_line_break(tokenizer: Tokenizer) -> None:
    ends = line_ends(tokenizer)
    assert tokenizer.encode("\n")[0] in ends
    assert {token for token in range(tokenizer.vocab_size) if "\n" in tokenizer.decode([token])} == set(ends)


def test_only_the_first_line_of_a_plain_answer_counts(tokenizer: Tokenizer) -> None:
    engine = RuleEngine(tokenizer, lambda text: " 5\nQ: What is 1 + 1?\nA: 2")
    assert greedy_answers(engine, [[1], [2]], 8, "plain") == ["5", "5"]  # type: ignore[arg-type]
    assert greedy_answers(engine, [[1]], 8)[0].count("\n") == 2  # type: ignore[arg-type]


def test_answers_come_in_the_order_of_the_prompts_whatever_the_batches(tokenizer: Tokenizer) -> None:
    texts = [f"number {number} " + "and so on " * (number * 37 % 400) for number in range(40)]
    engine = RuleEngine(tokenizer, lambda text: text.split()[1])
    prompts = [tokenizer.encode(text) for text in texts]
    assert greedy_answers(engine, prompts, 8) == [str(number) for number in range(40)]  # type: ignore[arg-type]
    assert len(engine.batches) > 2, "together they are too many tokens for one batch"


def test_a_solver_gets_everything_right(tokenizer: Tokenizer) -> None:
    problems = generate_problems(150, seed=3)
    prompts = {problem.prompt for problem in problems}
    engine = RuleEngine(tokenizer, lambda text: solve(next(prompt for prompt in prompts if prompt in text)) or "")
    assert evaluate_tasks(engine, tokenizer, problems, 8)["accuracy"] == 1.0  # type: ignore[arg-type]
