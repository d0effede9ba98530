"""The corpus stage: sources through the pipeline, plus generated documents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.pipeline import TRAIN, CorpusSettings, build_corpus
from kaiyuan.corpus.sources import Document, demo_documents, document_id, read_documents
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl, write_json, write_jsonl
from kaiyuan.recipe import CorpusSection
from kaiyuan.synthesis.statements import recall_document, statement_documents

if TYPE_CHECKING:
    from kaiyuan.run import StageContext

GENERATED = "generated.jsonl"


def run(context: StageContext) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl and generated.jsonl; returns the pipeline's counts."""
    section, seed = context.recipe.corpus, context.recipe.run.seed
    if not section.demo and not section.files:
        raise DataError("the recipe names no text: set corpus.demo = true or corpus.files = [...]")
    documents = itertools.chain(
        demo_documents() if section.demo else (),
        read_documents([Path(name) for name in section.files]) if section.files else (),
    )
    report = build_corpus(documents, context.folder, _settings(section), workers=section.workers)
    held_out_share = context.recipe.synthesis.held_out_share
    generated = [
        *statement_documents(section.statements, seed, held_out_share),
        *_recalls(context.folder / TRAIN, section, seed),
    ]
    write_jsonl(context.folder / GENERATED, (asdict(document) for document in generated))
    report["generated"] = {
        label: sum(document.label == label for document in generated)
        for label in sorted({document.label for document in generated})
    }
    write_json(context.folder / "report.json", report)
    return report


def _settings(section: CorpusSection) -> CorpusSettings:
    return CorpusSettings(
        min_chars=section.min_chars,
        languages=section.languages,
        quality=section.quality,
        anonymize=section.anonymize,
        dedup_threshold=section.dedup_threshold,
        held_out_share=section.held_out_share,
    )


def training_documents(folder: Path) -> Iterator[Document]:
    """Every document to train on, of a finished corpus folder."""
    for name in (TRAIN, GENERATED):
        for row in read_jsonl(folder / name):
            yield Document(**row)


def paragraphs(path: Path, language: str, longest: int = 600) -> list[str]:
    """Paragraphs of running text in one language, from a corpus file; filler for documents with a planted fact."""
    found = []
    for row in read_jsonl(path):
        if row["language"] == language and row["label"] != "poetry":
            found += [text for text in row["text"].split("\n\n") if 40 <= len(text) <= longest]
    return found


def spread(rng: Random, shortest: int, longest: int) -> int:
    """A random size between the two, even over the logarithm, so that short and long are equally common."""
    return round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))


def _recalls(path: Path, section: CorpusSection, seed: int) -> Iterator[Document]:
    """Documents that plant a fact and ask for it at their end."""
    rng = Random(f"recalls {seed}")
    filler = {language: paragraphs(path, language) for language in section.languages} if section.recalls else {}
    languages = [language for language, found in filler.items() if found]
    for number in range(section.recalls if languages else 0):
        language = languages[number % len(languages)]
        size = spread(rng, *section.recall_chars)
        text, question, answer = recall_document(rng, filler[language], size, rng.random(), language)
        form = "{}\n\n问：{}\n答：{}" if language == "zh" else "{}\n\nQ: {}\nA: {}"
        whole = form.format(text, question, answer)
        yield Document(document_id(whole), whole, "synthesis", language, "recall")
