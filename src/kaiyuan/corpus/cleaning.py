"""Cleaning as units of work: what has been read becomes cleaned documents, rejected ones, and records to compare.

A unit of cleaning is a stretch of documents of a unit that was read (``kaiyuan.corpus.work``). Its key says what was
read and with which settings it is cleaned, so it is done once, by anybody, here or on a cluster.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kaiyuan.corpus.dedup.lines import line_hashes
from kaiyuan.corpus.dedup.records import Records, record_type
from kaiyuan.corpus.dedup.signature import Signer, bands, of_views
from kaiyuan.corpus.dedup.urls import normalized_url
from kaiyuan.corpus.filters import View
from kaiyuan.corpus.pii import Audit, audit_key
from kaiyuan.corpus.pipeline import Cleaner, CorpusSettings, Outcome
from kaiyuan.corpus.sources.document import Document, sample_of
from kaiyuan.corpus.text import Hashes, Text, pieces
from kaiyuan.corpus.work import Counts, Store, Unit
from kaiyuan.corpus.work.store import Files, Step
from kaiyuan.files import fingerprint, sha256_of, write_json

VERSION = 2
"""Of what cleaning makes of its input; a change here makes every unit of cleaning due again."""
UNIT_BYTES = 4 * 2**20
"""Of documents that one unit of cleaning takes, as lines of JSON."""
_TICK, _BATCH = 0.5, 64


@dataclass(frozen=True)
class CleaningUnit(Unit):
    """A stretch of the documents of a unit that was read."""

    reads: str = ""
    """Key of that unit."""
    first: int = 0
    count: int = 0

    @property
    def size(self) -> int:
        return self.count


@dataclass
class Tally:
    """What a unit's cleaning did, in numbers; those of many units add up."""

    read: int = 0
    bytes: int = 0
    stopped: Counter[str] = field(default_factory=Counter)
    """Documents by stage."""
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    """By reason, documents by language and, with ``bytes `` before the language, their bytes."""
    pii: Counter[str] = field(default_factory=Counter)
    furniture: Counter[str] = field(default_factory=Counter)
    languages: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """What the numbers in a unit's records stand for."""

    def add(self, outcome: Outcome) -> None:
        size = len(outcome.original.text.encode("utf-8", "surrogatepass"))
        self.read += 1
        self.bytes += size
        self.pii += outcome.pii
        self.furniture += outcome.furniture
        if outcome.document is None:
            self.stopped[outcome.stage] += 1
            self.drop(outcome.kind, outcome.language, size)

    def drop(self, kind: str, language: str, size: int) -> None:
        self.kinds.setdefault(kind, Counter()).update({language: 1, f"bytes {language}": size})

    def merge(self, other: Tally) -> None:
        self.read += other.read
        self.bytes += other.bytes
        for name in ("stopped", "pii", "furniture"):
            getattr(self, name).update(getattr(other, name))
        for kind, counts in other.kinds.items():
            self.kinds.setdefault(kind, Counter()).update(counts)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Tally:
        """From a unit's marker."""
        counted = {name: Counter(values[name]) for name in ("stopped", "pii", "furniture")}
        kinds = {kind: Counter(counts) for kind, counts in values["kinds"].items()}
        return cls(**{**values, **counted, "kinds": kinds})


class CleanStore(Store):
    """Where cleaned units lie: documents, rejected documents, records, hashes of lines, the audit; and a marker with
    counts. ``key`` is the file with the key of the audit (``pii.audit_key``), None for no audit.
    """

    def __init__(
        self,
        folder: Path,
        read: Store,
        settings: CorpusSettings,
        contamination: Path | None = None,
        key: Path | None = None,
    ) -> None:
        super().__init__(folder)
        self.read, self.settings, self.contamination, self.key = read, settings, contamination, key

    def units(self, read: Sequence[Unit], unit_bytes: int = UNIT_BYTES) -> list[CleaningUnit]:
        """The units of cleaning for what has been read; a source's limit holds for all of its units together."""
        found: list[CleaningUnit] = []
        left = {unit.origin: unit.source.limit for unit in read if unit.source.limit}
        index = "" if self.contamination is None else sha256_of(self.contamination)
        threshold, lines = bands(self.settings.dedup_threshold), bool(self.settings.line_documents)
        key = "" if self.key is None else hashlib.sha256(audit_key(self.key)).hexdigest()
        how = fingerprint([VERSION, self.settings.of_one(), threshold, lines, index, key])
        for unit, counts in self.read.needed(read):
            assert counts is not None
            wanted = min(counts.documents, left.get(unit.origin, counts.documents))
            if unit.origin in left:
                left[unit.origin] -= wanted
            parts = max(1, -(-counts.bytes // unit_bytes))
            edges = [part * wanted // parts for part in range(parts + 1)]
            for first, last in pairwise(edges):
                name = fingerprint([unit.key, first, last - first]) + how[:8]
                source = unit.source.model_copy(update={"limit": 0})
                found.append(
                    CleaningUnit(len(found), name, unit.origin, source, unit.parts, unit.key, first, last - first)
                )
        return found

    def write(self, unit: Unit, step: Step | None = None, tick: Callable[[Counts], None] | None = None) -> Counts:
        """Clean a unit's documents and store what comes of them."""
        assert isinstance(unit, CleaningUnit)
        folder = self._path(unit.key, "").parent
        folder.mkdir(parents=True, exist_ok=True)
        endings = (f".jsonl{self.ending}", ".rejected.jsonl", ".records", ".lines", ".pii.jsonl")
        with Files(folder, tuple(f"{unit.key}{ending}" for ending in endings), bool(self.ending)) as files:
            writer = _Writer(files, self.settings)
            audit = None if self.key is None else Audit(audit_key(self.key))
            cleaner, shown = Cleaner(self.settings, self.contamination, audit), time.monotonic()
            for document in islice(self.read.documents_from(unit.reads, unit.first), unit.count):
                writer.add(cleaner(document))
                if tick is not None and time.monotonic() - shown >= _TICK:
                    shown = time.monotonic()
                    tick(writer.counts)
            writer.flush()
            sizes = files.finish(keep_empty=True)
        mark = {"files": sizes, "counts": writer.counts.report(), "tally": vars(writer.tally)}
        write_json(folder / f"{unit.key}.json", mark)
        return writer.counts

    def tally(self, unit: Unit) -> Tally:
        return Tally.of(json.loads(self._path(unit.key, ".json").read_bytes())["tally"])

    def records(self, units: Sequence[Unit]) -> Records:
        paths = [self._path(unit.key, ".records") for unit in units]
        return Records(paths, bands(self.settings.dedup_threshold))

    def line_paths(self, units: Sequence[Unit]) -> list[Path]:
        return [self._path(unit.key, ".lines") for unit in units]

    def rejected(self, unit: Unit) -> Iterator[bytes]:
        """Lines of JSON about the documents that a unit's cleaning rejected."""
        with self._path(unit.key, ".rejected.jsonl").open("rb") as stream:
            yield from stream

    def audit(self, unit: Unit) -> Iterator[dict[str, Any]]:
        """What was replaced in the documents that a unit's cleaning kept; ``number`` says in which of them."""
        with self._path(unit.key, ".pii.jsonl").open("rb") as stream:
            yield from map(json.loads, stream)


class _Writer:
    """Writes what becomes of documents; signatures are made of some documents at a time, which is faster."""

    def __init__(self, files: Files, settings: CorpusSettings) -> None:
        self.files, self.settings = files, settings
        self.counts, self.tally = Counts(), Tally()
        self.signer = Signer(settings.dedup_threshold)
        self.type = record_type(self.signer.bands)
        self.codes: dict[str, dict[str, int]] = defaultdict(dict)
        self.waiting: list[tuple[Any, ...]] = []
        self.shingles: list[Hashes] = []

    def add(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        if outcome.document is None:
            self.counts.skipped += 1
            self.counts.kinds[outcome.kind] += 1
            self.files.write(1, rejected_row(outcome))
            return
        document = outcome.document
        for row in outcome.audit:
            self.files.write(4, {"number": self.counts.documents, **row})
        self.counts.documents += 1
        self.counts.bytes += self.files.write(0, document.row())
        view = outcome.view or View(document.text, document.language)
        # Of a long text the view is a sample; what is compared with others is the whole of it.
        views = [view] if view.original == document.text else [Text(piece) for piece in pieces(document.text)]
        self.shingles.append(of_views(views))
        self.waiting.append(self._record(document, view, views))
        if len(self.waiting) >= _BATCH:
            self.flush()

    def _record(self, document: Document, view: View, views: Sequence[Text]) -> tuple[Any, ...]:
        lines = 0
        if self.settings.line_documents and self.settings.is_page(document.label, document.language):
            hashes = line_hashes(views)
            lines = len(hashes)
            self.files.streams[3].write(hashes.astype("<u8").tobytes())
        url = normalized_url(document.url) if document.url and document.language != "code" else ""
        where = f"{document.source}\0{document.place}\0{document.url}"
        return (
            int(document.id, 16), hash_of(url) if url else 0, hash_of(where),
            score(document, view, self.settings.score),
            min(view.count, 2**32 - 1), lines, self._code("languages", document.language),
            self._code("labels", document.label), min(len(document.text.encode()), 2**32 - 1),
        )  # fmt: skip

    def _code(self, what: str, name: str) -> int:
        codes = self.codes[what]
        if name not in codes:
            codes[name] = len(codes)
            getattr(self.tally, what).append(name)
        return codes[name]

    def flush(self) -> None:
        if not self.waiting:
            return
        table = np.zeros(len(self.waiting), dtype=self.type)
        names = [name for name in self.type.names or () if name not in ("sketch", "bands")]
        for name, column in zip(names, zip(*self.waiting, strict=True), strict=True):
            table[name] = column
        table["sketch"], table["bands"] = self.signer.sign(self.shingles)
        self.files.streams[2].write(table.tobytes())
        self.waiting, self.shingles = [], []


def hash_of(text: str) -> int:
    """A 64-bit hash of a short string."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def score(document: Document, view: View, name: str) -> float:
    """How good a document is among its duplicates: what ``extra`` says, else the share of it in whole sentences.

    The share is of the characters in lines that end like a sentence, in steps of 0.05, so that copies of about the
    same shape are told apart by their length.
    """
    value = document.extra.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return float(value)
    lines = view.lines
    return round(20 * float(lines.lengths[lines.ended].sum() / max(lines.lengths.sum(), 1))) / 20


def rejected_row(outcome: Outcome) -> dict[str, Any]:
    """A rejected document in JSON: which, from where, why, and how it begins."""
    original = outcome.original
    return {
        "id": original.id, "source": original.source, "place": original.place, "language": outcome.language,
        "reason": outcome.reason, "sample": sample_of(original.text),
    }  # fmt: skip
