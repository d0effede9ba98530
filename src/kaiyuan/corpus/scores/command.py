"""``kaiyuan train-scorer``: labels of a file, a judge or the demo corpus become a scorer with a report."""

from __future__ import annotations

import heapq
from pathlib import Path

from rich.console import Console

from kaiyuan.corpus.scores.config import LabelsSection, ScorerConfig
from kaiyuan.corpus.scores.demo_set import demo_labels
from kaiyuan.corpus.scores.embeddings import endpoint_embedding, model_embedding
from kaiyuan.corpus.scores.encoders import EmbeddingEncoder, Encoder, NgramEncoder
from kaiyuan.corpus.scores.labels import Labelled, read_labels
from kaiyuan.corpus.scores.report import scorer_page, show
from kaiyuan.corpus.scores.scorer import LinearScorer
from kaiyuan.corpus.scores.training import train
from kaiyuan.corpus.sources import Document
from kaiyuan.files import write_jsonl, write_text
from kaiyuan.settings import load_settings


def train_scorer(path: Path, out: Path) -> LinearScorer:
    """Write the scorer into ``out``, with labels.jsonl (those of a judge) and report.html; shows the report."""
    scorer = make_scorer(load_settings(ScorerConfig, path), out, out)
    show(scorer.report, Console(highlight=False))
    return scorer


def make_scorer(config: ScorerConfig, out: Path, paid: Path) -> LinearScorer:
    """Write the scorer and its report into ``out``, and what a judge has said into ``paid``."""
    rows = _labels(config.labels, paid)
    scorer = train(rows, _encoder(config), config.scorer)
    scorer.report["labels"] = _origin(config.labels)
    scorer.save(out / "scorer")
    write_text(out / "report.html", scorer_page(scorer.report))
    return scorer


def _labels(section: LabelsSection, out: Path) -> list[Labelled]:
    if section.demo:
        return demo_labels(most=section.demo_pieces)
    if section.file:
        return read_labels(Path(section.file))
    from kaiyuan.corpus.scores.judge import judge

    assert section.judge is not None
    out.mkdir(parents=True, exist_ok=True)
    rows = judge(_documents(section), section.judge, out, section.client)
    write_jsonl(out / "labels.jsonl", (row.row() for row in rows))
    return rows


def _documents(section: LabelsSection) -> list[Document]:
    """At most ``limit`` documents, those with the smallest ids: a sample by hash."""
    from kaiyuan.corpus.sources.reading import find_parts, read_part

    found = (
        item
        for source in section.documents
        for part, form in find_parts(source)
        for item in read_part(part, source.model_copy(update={"format": form}))
        if isinstance(item, Document)
    )
    return heapq.nsmallest(section.limit, found, key=lambda document: document.id)


def _encoder(config: ScorerConfig) -> Encoder:
    section = config.embedding
    if section is None:
        return NgramEncoder(config.scorer.bits)
    if section.base_url:
        embed = endpoint_embedding(section.base_url, section.model, section.api_key_env)
        return EmbeddingEncoder(embed, section.model)
    return EmbeddingEncoder(model_embedding(Path(section.model)), section.model)


def _origin(section: LabelsSection) -> str:
    if section.demo:
        return "the demo set: sources and spoilt text, not anybody's judgement"
    return f"the judge {section.judge.model}" if section.judge is not None else section.file
