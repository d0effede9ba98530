"""Needle in a haystack: one planted fact in a long document, asked for at its end, by length and by depth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from kaiyuan.errors import DataError
from kaiyuan.evaluation.asking import Form, greedy_answers, question_ids
from kaiyuan.progress import Progress

if TYPE_CHECKING:
    from kaiyuan.inference.engine import Engine
    from kaiyuan.tokenizer import Tokenizer

MAX_ANSWER_TOKENS = 16
_LEAST_FILL = 0.9
_ATTEMPTS = 12


@dataclass(frozen=True)
class Needle:
    """One question: the prompt's tokens, and the number that answers it."""

    ids: list[int]
    answer: str


def needle_accuracy(
    engine: Engine,
    tokenizer: Tokenizer,
    filler: Mapping[str, Sequence[str]],
    lengths: Sequence[int],
    depths: Sequence[float],
    samples: int,
    seed: int,
    form: Form = "chat",
) -> dict[str, Any]:
    """Share of planted numbers found, for prompts of 90 to 100% of each of ``lengths`` (tokens, answer included).

    ``filler`` are held-out paragraphs by language; questions go through the languages in turn. ``seed`` fixes facts,
    filler and places, so every checkpoint is asked the same. Returns ``{"lengths", "depths", "accuracy":
    [length][depth], "count", "samples", "form"}``; accuracy is None where the model's context is shorter.
    """
    languages = sorted(language for language, paragraphs in filler.items() if paragraphs)
    if not languages:
        raise DataError("the needle test needs held-out paragraphs; raise corpus.held_out_share")
    context = engine.model.config.max_position_embeddings
    matrix: list[list[float | None]] = []
    reachable = [length for length in lengths if length <= context]
    with Progress("needle", len(reachable) * len(depths) * samples, "questions") as progress:
        for length in lengths:
            if length > context:
                matrix.append([None] * len(depths))
                continue
            rows = [
                [
                    planted(tokenizer, filler, languages[number % len(languages)], length, depth,
                            f"needle {seed} {length} {depth} {number}", form)
                    for number in range(samples)
                ]
                for depth in depths
            ]  # fmt: skip
            matrix.append(_found(engine, rows, form))
            progress.update(len(depths) * samples)
    count = len(reachable) * len(depths) * samples
    return {"lengths": list(lengths), "depths": list(depths), "accuracy": matrix, "count": count, "samples": samples,
            "form": form}  # fmt: skip


def planted(
    tokenizer: Tokenizer,
    filler: Mapping[str, Sequence[str]],
    language: str,
    length: int,
    depth: float,
    seed: str,
    form: Form = "chat",
) -> Needle:
    """A question whose prompt and answer take at most ``length`` tokens, and at least nine tenths of it.

    The document is sized in characters; the same random choices are repeated with other sizes until it fits.
    """
    from kaiyuan.synthesis.problems import recall_document

    room = length - MAX_ANSWER_TOKENS
    sample = "".join(filler[language][:50])
    size = room * len(sample) / max(1, len(tokenizer.encode(sample)))
    best: Needle | None = None
    for _ in range(_ATTEMPTS):
        text, question, answer = recall_document(Random(seed), filler[language], max(1, round(size)), depth, language)
        needle = Needle(question_ids(tokenizer, question, language, form, text), answer)
        if len(needle.ids) <= room and (best is None or len(needle.ids) > len(best.ids)):
            best = needle
        if best is not None and len(best.ids) >= _LEAST_FILL * room:
            return best
        size *= 0.97 * room / len(needle.ids)
    if best is None:
        raise DataError(f"needle length {length}: too short for a planted fact and its question; use 64 or more")
    return best


def _found(engine: Engine, rows: Sequence[Sequence[Needle]], form: Form) -> list[float | None]:
    """The share found in every row."""
    needles = [needle for row in rows for needle in row]
    answers = iter(greedy_answers(engine, [needle.ids for needle in needles], MAX_ANSWER_TOKENS, form))
    return [sum(is_found(needle, next(answers)) for needle in row) / max(1, len(row)) for row in rows]


def is_found(needle: Needle, answer: str) -> bool:
    """Whether the planted number is the only number in the answer."""
    return set(re.findall(r"\d+", answer)) == {needle.answer}
