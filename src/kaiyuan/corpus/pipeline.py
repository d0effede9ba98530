"""From documents to a training corpus: normalise, language, quality, anonymise, deduplicate, split.

Documents flow through one by one and the text of none is kept: memory grows by a signature of about 1 kB for each
that stays. Deduplication comes before the split, so that no near-duplicate of a held-out document can be left in the
training set. Everything is decided by the text and the settings, nothing by chance or by the number of workers.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, Field

from kaiyuan.corpus.dedup import Deduplicator, Duplicate
from kaiyuan.corpus.filters import QualityRules, rejection
from kaiyuan.corpus.language import detect
from kaiyuan.corpus.normalize import normalize
from kaiyuan.corpus.pii import anonymize
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.corpus.split import is_held_out
from kaiyuan.files import atomic_file
from kaiyuan.progress import quantity, say, track

TRAIN, HELD_OUT, REJECTED = "train.jsonl", "heldout.jsonl", "rejected.jsonl"
_BATCH, _CHUNK = 1024, 16


class CorpusSettings(BaseModel):
    """What ``build_corpus`` keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_chars: int = Field(default=20, ge=0)
    """Fewest characters, after normalisation."""
    languages: list[str] = ["en", "zh"]
    """ISO codes of the languages to keep; code is always kept."""
    min_language_confidence: float = Field(default=0.65, ge=0, le=1)
    """Below it the detector is not believed, and the language that the source states holds."""
    quality: QualityRules = QualityRules()
    anonymize: bool = True
    dedup_threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity from which two documents are duplicates."""
    held_out_share: float = Field(default=0.03, ge=0, lt=1)


@dataclass(frozen=True)
class Outcome:
    """What the per-document part made of a document: one to keep, or the stage and the reason that say why not."""

    original: Document
    document: Document | None
    pii: Counter[str]
    stage: str = ""
    reason: str = ""


def clean(document: Document, settings: CorpusSettings) -> Outcome:
    """Normalise, check language and quality, anonymise; the id of what comes out is the hash of its new text."""
    text = normalize(document.text)
    language = document.language
    if language != "code":
        language, reason = _language(text, document.language, settings)
        if reason:
            return Outcome(document, None, Counter(), "language", reason)
    reason = _too_few_characters(text, settings) or rejection(text, language, settings.quality)
    if reason:
        return Outcome(document, None, Counter(), "quality", reason)
    pii: Counter[str] = Counter()
    if settings.anonymize:
        text, pii = anonymize(text)
    return Outcome(document, replace(document, id=document_id(text), text=text, language=language), pii)


def _language(text: str, stated: str, settings: CorpusSettings) -> tuple[str, str | None]:
    detected, confidence = detect(text)
    if confidence < settings.min_language_confidence and stated in settings.languages:
        return stated, None
    if detected in settings.languages:
        return detected, None
    return detected, f"language: {detected} ({confidence:.2f})"


def _too_few_characters(text: str, settings: CorpusSettings) -> str | None:
    if len(text) >= settings.min_chars:
        return None
    return f"too short: {len(text)} characters, at least {settings.min_chars} are wanted"


def build_corpus(
    documents: Iterable[Document],
    out: Path,
    settings: CorpusSettings,
    *,
    workers: int = 1,
    total: int | None = None,
) -> dict[str, Any]:
    """Write ``train.jsonl``, ``heldout.jsonl`` (documents) and ``rejected.jsonl`` (id, source, reason) into ``out``.

    ``workers`` processes share the per-document part; ``total``, the number of documents, makes the progress line
    exact. The files appear all together, when everything has gone well. Returns the report, ready for JSON:
    ``documents`` left after each stage, UTF-8 ``bytes`` by split, language and label, ``rejected`` by kind of reason,
    and ``pii`` replaced.
    """
    tally = _Tally()
    deduplicator = Deduplicator(settings.dedup_threshold)
    outcomes = _followed(_clean_all(documents, settings, workers), total or operator.length_hint(documents))
    with ExitStack() as stack:
        train, held_out, rejected = (_open(stack, out / name) for name in (TRAIN, HELD_OUT, REJECTED))
        for outcome in outcomes:
            outcome = _drop_duplicate(outcome, deduplicator)
            document = outcome.document
            held = document is not None and is_held_out(document.id, settings.held_out_share)
            tally.add(outcome, "heldout" if held else "train")
            if document is None:
                original = outcome.original
                _write(rejected, {"id": original.id, "source": original.source, "reason": outcome.reason})
            else:
                _write(held_out if held else train, document.row())
    report = tally.report()
    say(_summary(report))
    return report


def _clean_all(documents: Iterable[Document], settings: CorpusSettings, workers: int) -> Iterator[Outcome]:
    """Outcomes in the order of ``documents``. Batches keep a pool from reading all documents ahead of its work."""
    work = functools.partial(clean, settings=settings)
    if workers <= 1:
        yield from map(work, documents)
        return
    stream = iter(documents)
    # Not fork: the process may have threads running, torch's for instance, and a forked child can inherit their locks.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        while batch := list(itertools.islice(stream, _BATCH)):
            yield from pool.imap(work, batch, chunksize=_CHUNK)


def _followed(outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    """``outcomes`` with a progress line or, where ``total`` is unknown (0), a line every 10,000 documents."""
    if total:
        yield from track(outcomes, "corpus", total, "documents")
        return
    for number, outcome in enumerate(outcomes, 1):
        yield outcome
        if number % 10_000 == 0:
            say(f"corpus: {number:,} documents read")


def _drop_duplicate(outcome: Outcome, deduplicator: Deduplicator) -> Outcome:
    duplicate = None if outcome.document is None else deduplicator.add(outcome.document)
    if duplicate is None:
        return outcome
    return replace(outcome, document=None, stage="deduplication", reason=_duplicate_reason(duplicate))


def _duplicate_reason(duplicate: Duplicate) -> str:
    if duplicate.dropped == duplicate.kept:
        return f"duplicate: same text as {duplicate.kept}"
    return f"near-duplicate: {duplicate.similarity:.0%} like {duplicate.kept}"


def _open(stack: ExitStack, path: Path) -> TextIO:
    temporary = stack.enter_context(atomic_file(path))
    return stack.enter_context(temporary.open("w", encoding="utf-8"))


def _write(stream: TextIO, row: dict[str, Any]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


class _Tally:
    """The numbers of the report, counted as documents pass."""

    def __init__(self) -> None:
        self.read = self.bytes_read = 0
        self.stopped: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.pii: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.bytes: dict[str, dict[str, Counter[str]]] = {split: defaultdict(Counter) for split in ("train", "heldout")}

    def add(self, outcome: Outcome, split: str) -> None:
        self.read += 1
        self.bytes_read += len(outcome.original.text.encode("utf-8", "surrogatepass"))
        document = outcome.document
        if document is None:
            self.stopped[outcome.stage] += 1
            self.reasons[outcome.reason.split(":", 1)[0]] += 1
        else:
            self.kept[split] += 1
            self.pii += outcome.pii
            self.bytes[split][document.language][document.label] += len(document.text.encode("utf-8"))

    def report(self) -> dict[str, Any]:
        left, counts = self.read, {"read": self.read}
        for stage in ("language", "quality", "deduplication"):
            left -= self.stopped[stage]
            counts[f"after {stage}"] = left
        by_language = {
            split: {language: dict(labels) for language, labels in sorted(languages.items())}
            for split, languages in self.bytes.items()
        }
        return {
            "documents": {**counts, "train": self.kept["train"], "heldout": self.kept["heldout"]},
            "bytes": {"read": self.bytes_read, **by_language},
            "rejected": dict(self.reasons.most_common()),
            "pii": dict(sorted(self.pii.items())),
        }


def _summary(report: dict[str, Any]) -> str:
    counts, sizes = report["documents"], report["bytes"]
    kept = sum(size for split in ("train", "heldout") for labels in sizes[split].values() for size in labels.values())
    return (
        f"corpus: {counts['read']:,} documents ({quantity(sizes['read'])}B) read, {counts['train']:,} for training and "
        f"{counts['heldout']:,} held out ({quantity(kept)}B), {sum(report['pii'].values()):,} personal data replaced"
    )
