"""The synthesis stage: chat samples for SFT, preference pairs for DPO, and the problems held out for evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.pipeline import TRAIN
from kaiyuan.corpus.stage import paragraphs, spread
from kaiyuan.errors import DataError
from kaiyuan.files import write_json, write_jsonl
from kaiyuan.recipe import SynthesisSection
from kaiyuan.synthesis.kinds import Problem, is_held_out
from kaiyuan.synthesis.pipeline import AnswerKey, Careless, Solver, Verdict, answers_by_kind, synthesize
from kaiyuan.synthesis.problems import generate_problems
from kaiyuan.synthesis.statements import recall_document

if TYPE_CHECKING:
    from kaiyuan.run import StageContext

SFT, PREFERENCES, HELD_OUT = "sft.jsonl", "preferences.jsonl", "heldout.jsonl"


def run(context: StageContext) -> dict[str, Any]:
    """Write sft.jsonl, preferences.jsonl, heldout.jsonl and report.json."""
    section, seed = context.recipe.synthesis, context.recipe.run.seed
    problems, held_out = split_problems(section, seed)
    responders = (AnswerKey(), Solver(), Careless(answers_by_kind(problems)))
    verdicts = list(synthesize(problems, responders, seed))
    samples = [_sample(verdict) for verdict in verdicts if verdict.accepted][: section.samples]
    recalls = list(_recall_samples(context, section, seed))
    pairs = [_pair(verdict) for verdict in verdicts if verdict.accepted and verdict.rejected][: section.preferences]
    if len(samples) < section.samples or len(pairs) < section.preferences:
        raise DataError(f"synthesis made {len(samples)} samples and {len(pairs)} pairs, the recipe wants "
                        f"{section.samples} and {section.preferences}: lower them or allow more kinds")  # fmt: skip
    write_jsonl(context.folder / SFT, Random(f"order {seed}").sample([*samples, *recalls], len(samples) + len(recalls)))
    write_jsonl(context.folder / PREFERENCES, pairs)
    write_jsonl(context.folder / HELD_OUT, (asdict(problem) for problem in held_out))
    report = {
        "instructions": len(problems),
        "accepted": sum(bool(verdict.accepted) for verdict in verdicts),
        "refused": dict(Counter(verdict.reason for verdict in verdicts if verdict.reason)),
        "sft_samples": len(samples) + len(recalls),
        "recall_samples": len(recalls),
        "preference_pairs": len(pairs),
        "held_out_problems": len(held_out),
        "kinds": dict(sorted(Counter(problem.kind for problem in problems).items())),
    }
    write_json(context.folder / "report.json", report)
    return report


def split_problems(section: SynthesisSection, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Problems to train on and ``section.held_out`` to evaluate with, separated by the hash of their key."""
    wanted = round(1.1 * max(section.samples, 2.2 * section.preferences))
    drawn = round((wanted + section.held_out) / (1 - section.held_out_share))
    everything = generate_problems(drawn, seed, section.kinds or None)
    training = [problem for problem in everything if not is_held_out(problem.key, section.held_out_share)]
    held_out = [problem for problem in everything if is_held_out(problem.key, section.held_out_share)]
    if len(held_out) < section.held_out:
        raise DataError(f"only {len(held_out)} problems are held out, the recipe wants {section.held_out}: "
                        "lower synthesis.held_out or raise synthesis.held_out_share")  # fmt: skip
    return training[:wanted], held_out[: section.held_out]


def _sample(verdict: Verdict) -> dict[str, Any]:
    problem = verdict.problem
    messages = [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": verdict.accepted}]
    return {"messages": messages, "kind": problem.kind, "language": problem.language, "key": problem.key}


def _pair(verdict: Verdict) -> dict[str, Any]:
    problem = verdict.problem
    messages = [{"role": "user", "content": problem.prompt}]
    return {"messages": messages, "chosen": verdict.accepted, "rejected": verdict.rejected, "problem": asdict(problem)}


def _recall_samples(context: StageContext, section: SynthesisSection, seed: int) -> Iterator[dict[str, Any]]:
    """A longer text with one planted fact, and a question for it."""
    rng = Random(f"recall samples {seed}")
    path, languages = context.input("corpus") / TRAIN, context.recipe.corpus.languages
    filler = {language: paragraphs(path, language) for language in languages} if section.recall_samples else {}
    usable = [language for language, found in filler.items() if found]
    for number in range(section.recall_samples if usable else 0):
        language = usable[number % len(usable)]
        size = spread(rng, *section.recall_chars)
        text, question, answer = recall_document(rng, filler[language], size, rng.random(), language)
        messages = [
            {"role": "user", "content": f"{text}\n\n{question}"},
            {"role": "assistant", "content": answer},
        ]
        yield {"messages": messages, "kind": "recall", "language": language, "key": f"recall:{number}"}
