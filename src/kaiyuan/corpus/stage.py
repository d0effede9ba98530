"""The corpus stage: sources read and cleaned as units of work, duplicates out, plus generated documents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.assemble import assemble
from kaiyuan.corpus.cleaning import CleaningUnit, CleanStore
from kaiyuan.corpus.decontaminate import Contamination, read_items
from kaiyuan.corpus.pipeline import HELD_OUT, REJECTED, TRAIN
from kaiyuan.corpus.sources import Document, Source, document_id
from kaiyuan.corpus.sources.demo import PATH
from kaiyuan.corpus.text import Places
from kaiyuan.corpus.work import Counts, Store, Unit, plan, run_units
from kaiyuan.errors import DataError
from kaiyuan.files import fingerprint, read_jsonl, write_json, write_jsonl, write_text
from kaiyuan.progress import say
from kaiyuan.recipe import OWN_SETS, CorpusSection, Recipe
from kaiyuan.synthesis.statements import recall_document, statement_documents

if TYPE_CHECKING:
    from kaiyuan.run import StageContext

GENERATED, DEAD = "generated.jsonl", "dead.jsonl"
AUDIT_KEY = "pii.key"
"""In the folder of the run, not of the stage: whoever gets the audit must not get its key."""
UNITS = "corpus.units"
"""Folder of the run where what was read is kept: other settings of cleaning need not read it again."""
CLEANED = "corpus.cleaned"
"""Folder of the run where what was cleaned is kept: other settings of deduplication need not clean it again."""
JUDGED = "corpus.judged"
"""Folder of the run where a judge's labels are kept, since they were paid for."""
SCORER = "scorer"


def run(context: StageContext) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl, generated.jsonl, pii.jsonl (what was replaced where) and
    dead.jsonl (what could not be read).

    Returns the report of ``assemble``, and under ``sources`` what became of the records of each source.
    """
    from kaiyuan.corpus.scores.apply import label_of_generated

    section, seed = context.recipe.corpus, context.recipe.run.seed
    read_store = Store((context.run / UNITS).resolve())
    read, counts = _read(context, read_store)
    cleaned = (context.run / CLEANED).resolve()
    key = (context.run / AUDIT_KEY).resolve() if section.anonymize and section.audit else None
    index = contamination_index(context.recipe, cleaned)
    store = CleanStore(cleaned, read_store, section.cleaning(), index, key)
    units = store.units(read)
    _do(context, units, store, "cleaning")
    report = assemble(store, units, context.folder, groups=_groups(section, store, units))
    report["sources"] = counts
    _refuse_nothing(report["documents"], context.folder)
    store.prune(units)
    _score(context, report)
    held_out_share = context.recipe.synthesis.held_out_share
    generated = [
        replace(document, label=label_of_generated(document.label, document.language, section.mix_by))
        for document in (
            *statement_documents(section.statements, seed, held_out_share),
            *_recalls(context.folder / TRAIN, section, seed),
        )
    ]
    write_jsonl(context.folder / GENERATED, (document.row() for document in generated))
    report["generated"] = {
        label: sum(document.label == label for document in generated)
        for label in sorted({document.label for document in generated})
    }
    write_json(context.folder / "report.json", report)
    _describe(context, report)
    return report


def _refuse_nothing(documents: dict[str, int], folder: Path) -> None:
    if not documents["train"]:
        raise DataError(
            f"no document is left to train on, of {documents['read']:,} that were read: {folder / REJECTED} and "
            f"{folder / DEAD} say why"
        )


def _score(context: StageContext, report: dict[str, Any]) -> None:
    """Scores into the documents, and what the mixture chooses by into their labels."""
    section, folder = context.recipe.corpus, context.folder
    paths = [folder / TRAIN, folder / HELD_OUT]
    if section.scorers or section.scorer is not None:
        from kaiyuan.corpus.scores import load_scorer
        from kaiyuan.corpus.scores.apply import apply_scores

        documents = report["documents"]
        scorers = [load_scorer(name) for name in section.scorers]
        if section.scorer is not None:
            from kaiyuan.corpus.scores.command import make_scorer

            scorers.append(make_scorer(section.scorer, folder / SCORER, context.run / JUDGED))
            dimensions = scorers[-1].report["dimensions"]
            report["scorer"] = {
                "labels": scorers[-1].report["labels"],
                "dimensions": {name: found["summary"] for name, found in dimensions.items()},
            }
        apply_scores(paths, scorers, documents["train"] + documents["heldout"])
    if section.mix_by:
        from kaiyuan.corpus.scores.apply import relabel

        relabel(paths, section.mix_by, section.best_share)


def _describe(context: StageContext, report: dict[str, Any]) -> None:
    """survey.json, report.html for people, and the data card."""
    from kaiyuan.corpus.card import data_card
    from kaiyuan.corpus.survey import survey
    from kaiyuan.report.corpus_page import corpus_page

    name, found = context.recipe.run.name, survey(context.folder)
    write_json(context.folder / "survey.json", found)
    write_text(context.folder / "report.html", corpus_page(name, report, found))
    settings = context.recipe.corpus.model_dump(mode="json")
    write_text(context.folder / "README.md", data_card(name, report, found, settings))


def sources_of(section: CorpusSection) -> list[Source]:
    """What the recipe reads; the demo corpus is a source like the others."""
    if not section.demo and not section.files:
        raise DataError("the recipe names no text: set corpus.demo = true or corpus.files = [...]")
    return [*([Source(path=PATH, format="demo")] if section.demo else ()), *section.files]


def states(recipe: Recipe) -> dict[str, str | None]:
    """In which state what the corpus is made from is, beside the files that its section names."""
    return {**_of_sources(recipe), **_of_other_sections(recipe)}


def _of_other_sections(recipe: Recipe) -> dict[str, str]:
    """What other sections say that decides here: what the run evaluates with, and which facts statements leave out.

    The items themselves, since most changes of those sections change none of them.
    """
    section = recipe.corpus
    found = {
        f"{name} of the evaluation": fingerprint(evaluation_items(name, recipe))
        for name in OWN_SETS
        if name in section.decontaminate
    }
    if section.statements:
        found["synthesis.held_out_share"] = str(recipe.synthesis.held_out_share)
    return found


def _of_sources(recipe: Recipe) -> dict[str, str | None]:
    """In which state the sources on this machine are, as ``identity`` tells it; None for one that is gone."""
    found: dict[str, list[str] | None] = {}
    for source in sources_of(recipe.corpus):
        if source.path.startswith("hf://") or source.format == "hf":
            continue  # the network may be gone too; ``revision`` is a setting
        try:
            keys = [unit.key for unit in plan([source])]
        except DataError:
            found[source.path] = None
        else:
            found[source.path] = [*(found.get(source.path) or ()), *keys]
    return {path: None if keys is None else fingerprint(keys) for path, keys in found.items()}


def _do(context: StageContext, units: Sequence[Unit], store: Store, label: str) -> dict[int, Counts]:
    """Do units here or on the recipe's cluster; returns counts by source."""
    section = context.recipe.corpus
    if section.cluster is not None:
        from kaiyuan.corpus.cluster import run_on_cluster

        cluster = section.cluster
        run_on_cluster(units, store, cluster.executor, tasks=cluster.tasks, **cluster.options)
    return run_units(units, store, workers=section.workers, label=label).counts if units else {}


def _read(context: StageContext, store: Store) -> tuple[list[Unit], dict[str, dict[str, Any]]]:
    """Read what the recipe names; units, and counts by source."""
    sources = sources_of(context.recipe.corpus)
    units = plan(sources)
    counts = _do(context, units, store, "sources")
    count = store.write_dead(units, context.folder / DEAD)
    if count:
        say(f"corpus: {count:,} records were not read; {DEAD} says which and why")
    store.prune(units)
    return units, {sources[origin].path: counted.report() for origin, counted in counts.items()}


def contamination_index(recipe: Recipe, folder: Path) -> Path | None:
    """The index of the evaluation sets that the recipe names, written into ``folder``."""
    named = recipe.corpus.decontaminate
    if not named:
        return None
    path = folder / "evaluation.npz"
    Contamination.of({name: evaluation_items(name, recipe) for name in named}).save(path)
    return path


def evaluation_items(name: str, recipe: Recipe) -> list[str]:
    """The items of an evaluation set: ``problems`` and ``prompts`` are the run's own; for other names see
    ``read_items``."""
    if name == "problems":
        from kaiyuan.synthesis.stage import split_problems

        return [problem.prompt for problem in split_problems(recipe.synthesis, recipe.run.seed)[1]]
    if name == "prompts":
        return list(recipe.evaluation.prompts)
    items = list(read_items(name))
    if not items:
        raise DataError(f"{name}: no items in it; corpus.decontaminate names it as an evaluation set")
    return items


def _groups(section: CorpusSection, store: CleanStore, units: list[CleaningUnit]) -> Iterable[Places] | None:
    """On a cluster the documents to compare are found there, by datatrove's MinHash stages."""
    if section.cluster is None:
        return None
    from kaiyuan.corpus.dedup.trove import groups_on_cluster

    return groups_on_cluster(store, units, section.cluster.executor, **section.cluster.options)


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
