"""The evaluation stage: every checkpoint of a run measured alike, beside what a compressor makes of the same text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.pipeline import HELD_OUT, TRAIN
from kaiyuan.evaluation.asking import Form
from kaiyuan.evaluation.compression import DICTIONARY_BYTES, compression_by_language
from kaiyuan.evaluation.suite import Suite, evaluate_model
from kaiyuan.files import read_json, read_jsonl, write_json
from kaiyuan.progress import say

if TYPE_CHECKING:
    from kaiyuan.run import StageContext

RESULTS = "results.json"
FORMS: dict[str, Form] = {"pretrain": "plain", "extend": "plain", "sft": "chat", "dpo": "chat"}
"""The stages that leave a model, in order, and how that is asked: a base model has never seen the chat template."""
HELD_OUT_BYTES = 2**20
"""Most held-out text per language: more would not change the third digit."""


def run(context: StageContext) -> dict[str, Any]:
    """Write results.json; returns the few numbers that a log line has room for."""
    stages = [name for name in FORMS if (context.run / name / "model").is_dir()]
    corpus = context.input("corpus")
    documents = within(read_jsonl(corpus / HELD_OUT), HELD_OUT_BYTES)
    suite = make_suite(context, documents)
    # Before the models, not beside them: a core that is busy elsewhere makes every parallel region of torch wait.
    compression = _compression(corpus / TRAIN, documents)
    results = {name: _measured(context, name, suite, stages) for name in stages}
    write_json(context.folder / RESULTS, {"compression": compression, "stages": results})
    for name in stages:
        (context.folder / f"{name}.json").unlink()
    for name, result in results.items():
        say(f"evaluation: {name}: {_summary(result)}")
    for language, row in compression.items():
        say(f"evaluation: xz -9e: {language} {row['xz_bits_per_byte']:.3f} bits/byte")
    return {"stages": {name: _figures(result) for name, result in results.items()}}


def make_suite(context: StageContext, documents: Sequence[Mapping[str, Any]]) -> Suite:
    """The suite of a recipe: its held-out documents and problems with its settings."""
    from kaiyuan.corpus.stage import paragraphs
    from kaiyuan.synthesis.problems import Problem

    section, corpus = context.recipe.evaluation, context.input("corpus")
    problems = [Problem(**row) for row in read_jsonl(context.input("synthesis") / "heldout.jsonl")]
    return Suite(
        documents=documents,
        problems=problems,
        filler={name: paragraphs(corpus / HELD_OUT, name) for name in context.recipe.corpus.languages},
        context=section.context,
        max_tokens=section.max_tokens,
        needle_lengths=section.needle_lengths,
        needle_depths=section.needle_depths,
        needle_samples=section.needle_samples,
        prompts=section.prompts,
        seed=context.recipe.run.seed,
    )


def within(documents: Iterable[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The first documents of every language that together stay within ``limit`` bytes; at least one of each."""
    kept: list[dict[str, Any]] = []
    sizes: dict[str, int] = defaultdict(int)
    for document in documents:
        size, language = len(document["text"].encode("utf-8")), document["language"]
        if sizes[language] == 0 or sizes[language] + size <= limit:
            sizes[language] += size
            kept.append(document)
    return kept


def _measured(context: StageContext, name: str, suite: Suite, stages: Sequence[str]) -> dict[str, Any]:
    """The results of one checkpoint, kept in a file so that an interrupted evaluation goes on with the next one."""
    from kaiyuan.training.pretrain import pick_device

    path = context.folder / f"{name}.json"
    if not path.exists():
        say(f"evaluation: {name}")
        device = pick_device(context.recipe.run)
        # The needle test is the dearest: base models show what the long context brings, the last model what is left.
        needle = FORMS[name] == "plain" or name == stages[-1]
        result = evaluate_model(context.run / name / "model", suite, form=FORMS[name], needle=needle, device=device)
        write_json(path, result)
    return read_json(path)


def _compression(train: Path, documents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | str]]:
    """xz sees the natural part of the training text: generated statements would only be in its way."""
    return compression_by_language(_texts(within(read_jsonl(train), DICTIONARY_BYTES)), _texts(documents), workers=2)


def _texts(documents: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    texts = defaultdict(list)
    for document in documents:
        texts[document["language"]].append(document["text"])
    return dict(texts)


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    rates = {language: round(row["bits_per_byte"], 4) for language, row in result["bits_per_byte"].items()}
    return {"bits_per_byte": rates, "accuracy": round(result["tasks"]["accuracy"], 4)}


def _summary(result: Mapping[str, Any]) -> str:
    figures = _figures(result)
    rates = ", ".join(f"{language} {rate:.3f}" for language, rate in figures["bits_per_byte"].items())
    return f"bits/byte {rates}; {figures['accuracy']:.1%} of {result['tasks']['count']} problems"
