"""The corpus stage: sources read as units of work, through the pipeline, plus generated documents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.pipeline import TRAIN, CorpusSettings, build_corpus
from kaiyuan.corpus.sources import Document, demo_documents, demo_sources, document_id
from kaiyuan.corpus.work import Store, Unit, plan, run_units
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl, write_json, write_jsonl
from kaiyuan.progress import say
from kaiyuan.recipe import CorpusSection
from kaiyuan.synthesis.statements import recall_document, statement_documents

if TYPE_CHECKING:
    from kaiyuan.run import StageContext

GENERATED, DEAD = "generated.jsonl", "dead.jsonl"
UNITS = "corpus.units"
"""Folder of the run where what was read is kept: other settings of cleaning need not read it again."""


def run(context: StageContext) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl, generated.jsonl and dead.jsonl (what could not be read).

    Returns the pipeline's counts, and under ``sources`` what became of the records of each source.
    """
    section, seed = context.recipe.corpus, context.recipe.run.seed
    if not section.demo and not section.files:
        raise DataError("the recipe names no text: set corpus.demo = true or corpus.files = [...]")
    store = Store(context.run / UNITS)
    units, read = _read(context, store)
    documents = itertools.chain(demo_documents() if section.demo else (), store.documents(units))
    total = sum(counts["documents"] for counts in read.values())
    total += sum(source.documents for source in demo_sources()) if section.demo else 0
    report = build_corpus(documents, context.folder, _settings(section), workers=section.workers, total=total)
    report["sources"] = read
    held_out_share = context.recipe.synthesis.held_out_share
    generated = [
        *statement_documents(section.statements, seed, held_out_share),
        *_recalls(context.folder / TRAIN, section, seed),
    ]
    write_jsonl(context.folder / GENERATED, (document.row() for document in generated))
    report["generated"] = {
        label: sum(document.label == label for document in generated)
        for label in sorted({document.label for document in generated})
    }
    write_json(context.folder / "report.json", report)
    return report


def _read(context: StageContext, store: Store) -> tuple[list[Unit], dict[str, dict[str, Any]]]:
    """Read what the recipe's ``files`` name, here or on its cluster; units, and counts by source."""
    section = context.recipe.corpus
    sources, cluster = section.files, section.cluster
    units = plan(sources)
    if cluster is not None:
        from kaiyuan.corpus.cluster import run_on_cluster

        run_on_cluster(units, store.folder, cluster.executor, tasks=cluster.tasks, **cluster.options)
    if not units:
        return [], {}
    totals = run_units(units, store, workers=section.workers)
    count = store.write_dead(units, context.folder / DEAD)
    if count:
        say(f"corpus: {count:,} records were not read; {DEAD} says which and why")
    store.prune(units)
    return units, {sources[origin].path: counts.report() for origin, counts in totals.counts.items()}


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
