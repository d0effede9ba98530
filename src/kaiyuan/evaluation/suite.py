"""All measurements of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaiyuan.evaluation.asking import Form, greedy_answers, question_ids
from kaiyuan.evaluation.bits_per_byte import bits_per_byte
from kaiyuan.evaluation.needle import needle_accuracy
from kaiyuan.evaluation.tasks import evaluate_tasks
from kaiyuan.inference.engine import Engine

if TYPE_CHECKING:
    import torch

    from kaiyuan.model.transformer import Transformer
    from kaiyuan.synthesis.problems import Problem
    from kaiyuan.tokenizer import Tokenizer


@dataclass(frozen=True)
class Suite:
    """What to measure with. Every checkpoint of a run gets the same."""

    documents: Sequence[Mapping[str, Any]]
    """Held-out documents with ``text`` and ``language``."""
    problems: Sequence[Problem]
    filler: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Held-out paragraphs by language, for the needle test."""
    context: int = 512
    """Window of bits per byte, in tokens; the model's own context if that is shorter."""
    max_tokens: int = 24
    needle_lengths: Sequence[int] = ()
    needle_depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needle_samples: int = 0
    """Questions per length and depth; 0 leaves the needle test out."""
    prompts: Sequence[str] = ()
    """Free prompts, answered but not judged."""
    seed: int = 0


def evaluate_model(
    model: str | Path | Transformer,
    suite: Suite,
    tokenizer: Tokenizer | None = None,
    *,
    form: Form = "chat",
    needle: bool = True,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """``{"bits_per_byte", "tasks", "needle", "samples", "form"}`` of a model folder or a model with its tokenizer.

    ``form`` is how it is asked: "chat" by the template, "plain" for a base model that has not seen the template.
    ``needle`` is None in the result where it is not asked for here or by the suite.
    """
    engine = Engine(model, tokenizer, device=device)
    if engine.tokenizer is None:
        raise ValueError(f"{model}: a model without tokenizer cannot be evaluated on text")
    words, context = engine.tokenizer, min(suite.context, engine.model.config.max_position_embeddings)
    wanted = needle and suite.needle_samples > 0 and len(suite.needle_lengths) > 0
    return {
        "form": form,
        "bits_per_byte": bits_per_byte(engine.model, words, suite.documents, context),
        "tasks": evaluate_tasks(engine, words, suite.problems, suite.max_tokens, form),
        "needle": _needle(engine, words, suite, form) if wanted else None,
        "samples": _samples(engine, words, suite, form),
    }


def _needle(engine: Engine, tokenizer: Tokenizer, suite: Suite, form: Form) -> dict[str, Any]:
    return needle_accuracy(
        engine,
        tokenizer,
        suite.filler,
        suite.needle_lengths,
        suite.needle_depths,
        suite.needle_samples,
        suite.seed,
        form,
    )


def _samples(engine: Engine, tokenizer: Tokenizer, suite: Suite, form: Form) -> list[dict[str, str]]:
    languages = ["zh" if any("一" <= letter <= "鿿" for letter in prompt) else "en" for prompt in suite.prompts]
    prompts = [
        question_ids(tokenizer, prompt, language, form)
        for prompt, language in zip(suite.prompts, languages, strict=True)
    ]
    answers = greedy_answers(engine, prompts, suite.max_tokens, form)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in zip(suite.prompts, answers, strict=True)]
