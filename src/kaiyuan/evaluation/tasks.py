"""Generated problems that were kept out of all training: asked greedily, checked by their verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kaiyuan.evaluation.asking import Form, greedy_answers, question_ids

if TYPE_CHECKING:
    from kaiyuan.inference.engine import Engine
    from kaiyuan.synthesis.problems import Problem
    from kaiyuan.tokenizer import Tokenizer


def evaluate_tasks(
    engine: Engine, tokenizer: Tokenizer, problems: Sequence[Problem], max_tokens: int, form: Form = "chat"
) -> dict[str, Any]:
    """Accuracy over ``problems`` and by kind and language, with every answer.

    ``{"accuracy", "count", "form", "by_kind": {kind: {"accuracy", "count"}}, "by_language": ..., "answers": [{"prompt",
    "expected", "answer", "correct", "kind", "language"}]}``; answers are in the order of the problems.
    """
    from kaiyuan.synthesis.problems import verify

    prompts = [question_ids(tokenizer, problem.prompt, problem.language, form) for problem in problems]
    responses = greedy_answers(engine, prompts, max_tokens, form)
    answers = [
        {
            "prompt": problem.prompt,
            "expected": problem.answer,
            "answer": response,
            "correct": verify(problem, response) >= 1,
            "kind": problem.kind,
            "language": problem.language,
        }
        for problem, response in zip(problems, responses, strict=True)
    ]
    return {
        **_accuracy(answers),
        "form": form,
        "by_kind": _grouped(answers, lambda row: row["kind"]),
        "by_language": _grouped(answers, lambda row: row["language"]),
        "answers": answers,
    }


def _accuracy(answers: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    correct = sum(row["correct"] for row in answers)
    return {"accuracy": correct / len(answers) if answers else 0.0, "count": len(answers)}


def _grouped(answers: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    names = sorted({key(row) for row in answers})
    return {name: _accuracy([row for row in answers if key(row) == name]) for name in names}
