"""The synthesis stage: chat samples for SFT, preference pairs for DPO, and the problems held out for evaluation."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.pipeline import TRAIN
from kaiyuan.corpus.stage import paragraphs, spread
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl, write_json, write_jsonl
from kaiyuan.recipe import SynthesisSection
from kaiyuan.synthesis.kinds import KINDS, Problem, is_held_out
from kaiyuan.synthesis.pipeline import AnswerKey, Careless, Solver, Specialist, Verdict, answers_by_kind, synthesize
from kaiyuan.synthesis.problems import problems_of_kind
from kaiyuan.synthesis.statements import recall_document

if TYPE_CHECKING:
    from kaiyuan.run import StageContext

SFT, PREFERENCES, HELD_OUT = "sft.jsonl", "preferences.jsonl", "heldout.jsonl"
CONVERSATION = "conversation"
LONGEST = 4
"""Questions of a conversation, at most."""


def run(context: StageContext) -> dict[str, Any]:
    """Write sft.jsonl, preferences.jsonl, heldout.jsonl and report.json."""
    section, seed = context.recipe.synthesis, context.recipe.run.seed
    problems, held_out = split_problems(section, seed)
    responders = (Specialist(), AnswerKey(), Solver(), Careless(answers_by_kind(problems)))
    verdicts = list(synthesize(problems, responders, seed))
    accepted = [verdict for verdict in verdicts if verdict.accepted]
    samples = [_sample(verdict) for verdict in accepted[: section.samples]]
    recalls = list(_recall_samples(context, section, seed))
    pairs = [_pair(verdict) for verdict in _unseen_first(accepted, section.samples) if verdict.rejected]
    pairs = pairs[: section.preferences]
    if len(samples) < section.samples or len(pairs) < section.preferences:
        raise DataError(f"synthesis made {len(samples)} samples and {len(pairs)} pairs, the recipe wants "
                        f"{section.samples} and {section.preferences}: lower them or allow more kinds")  # fmt: skip
    asked = {problem.prompt for problem in held_out}
    further = [row for name in section.files for row in further_samples(Path(name)) if not asked & set(_asked(row))]
    chats = conversations(samples, section.conversation_share, seed)
    everything = [*chats, *recalls, *further]
    write_jsonl(context.folder / SFT, Random(f"order {seed}").sample(everything, len(everything)))
    write_jsonl(context.folder / PREFERENCES, pairs)
    write_jsonl(context.folder / HELD_OUT, (asdict(problem) for problem in held_out))
    report = {
        "instructions": len(problems),
        "accepted": sum(bool(verdict.accepted) for verdict in verdicts),
        "refused": dict(Counter(verdict.reason for verdict in verdicts if verdict.reason)),
        "sft_samples": len(everything),
        "recall_samples": len(recalls),
        **({"conversations": sum(row["kind"] == CONVERSATION for row in chats)} if section.conversation_share else {}),
        **({"samples_of_files": len(further)} if section.files else {}),
        "preference_pairs": len(pairs),
        "held_out_problems": len(held_out),
        "kinds": dict(sorted(Counter(problem.kind for problem in problems).items())),
    }
    write_json(context.folder / "report.json", report)
    return report


def _unseen_first(accepted: Sequence[Verdict], samples: int) -> Iterator[Verdict]:
    """Verdicts for preference pairs: first those whose question is not among the first ``samples``, which SFT sees.

    What a model has been trained on it answers right, and its rare slips there say little about where it is weak.
    """
    asked = {verdict.problem.prompt for verdict in accepted[:samples]}
    yield from (verdict for verdict in accepted if verdict.problem.prompt not in asked)
    yield from (verdict for verdict in accepted if verdict.problem.prompt in asked)


def conversations(samples: Sequence[dict[str, Any]], share: float, seed: int) -> list[dict[str, Any]]:
    """``samples``, of which ``share`` are joined into conversations of two to ``LONGEST`` questions.

    A model that has only seen one question a chat takes the second for a part of the first.
    """
    rng, taken = Random(f"conversations {seed}"), round(share * len(samples))
    found, rest = [], list(samples[:taken])
    while len(rest) > 1:
        turns = rest[: rng.randint(2, LONGEST)]
        del rest[: len(turns)]
        messages = [message for turn in turns for message in turn["messages"]]
        key = " ".join(turn["key"] for turn in turns)
        found.append({"messages": messages, "kind": CONVERSATION, "language": turns[0]["language"], "key": key})
    return [*found, *rest, *samples[taken:]]


def further_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Chat samples of a file: rows whose ``messages`` alternate and end with an answer. Others are a ``DataError``."""
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            messages = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
        except (KeyError, TypeError):
            messages = []
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        texts = all(isinstance(message["content"], str) and message["content"] for message in messages)
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2) or not texts:
            raise DataError(
                f"{path}: row {number}: messages must be texts of user and assistant in turn, an answer last"
            )
        labels = {name: str(row.get(name, "")) for name in ("kind", "language", "key")}
        yield {"messages": messages, **labels}


def _asked(row: dict[str, Any]) -> Iterator[str]:
    return (message["content"] for message in row["messages"] if message["role"] == "user")


def split_problems(section: SynthesisSection, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Problems to train on and ``section.held_out`` to evaluate with, separated by the hash of their key.

    Of the first, each kind has a share as its weight says; a kind with too few problems has them several times. Of the
    second, each kind has equally many, or all that it has.
    """
    rng, share = Random(f"split {seed}"), section.held_out_share
    wanted = _shares(section, round(1.1 * max(section.samples, 2.2 * section.preferences)))
    training: list[Problem] = []
    held_out: list[list[Problem]] = []
    for kind, count in wanted.items():
        drawn = problems_of_kind(kind, round((count + 2 * section.held_out / len(wanted)) / (1 - share)), seed)
        pool = [problem for problem in drawn if not is_held_out(problem.key, share)]
        if not pool:
            raise DataError(f"all problems of kind {kind} are held out: lower synthesis.held_out_share")
        training += itertools.islice(itertools.cycle(pool), count)
        held_out.append([problem for problem in drawn if is_held_out(problem.key, share)])
    turns = [problem for turn in itertools.zip_longest(*held_out) for problem in turn if problem is not None]
    if len(turns) < section.held_out:
        raise DataError(f"only {len(turns)} problems are held out, the recipe wants {section.held_out}: "
                        "lower synthesis.held_out or raise synthesis.held_out_share")  # fmt: skip
    return rng.sample(training, len(training)), turns[: section.held_out]


def _shares(section: SynthesisSection, total: int) -> dict[str, int]:
    """How many of ``total`` problems each kind has."""
    weights = {kind: section.weights.get(kind, 1.0) for kind in section.kinds or KINDS}
    return {kind: math.ceil(total * weight / sum(weights.values())) for kind, weight in weights.items()}


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
