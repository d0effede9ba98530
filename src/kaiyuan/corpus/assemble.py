"""From cleaned units to a corpus: what other documents decide (duplicates, shared lines), the split, and the report.

Deduplication comes before the split, so that no near-duplicate of a held-out document can be left in the training set.
Documents are copied as the lines of JSON that they already are; only those that lose lines are looked into again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kaiyuan.corpus.cleaning import CleaningUnit, CleanStore, Tally
from kaiyuan.corpus.dedup import Decisions, Records, common_lines, decide
from kaiyuan.corpus.dedup.choice import NAMES, NEAR, URL
from kaiyuan.corpus.dedup.lines import among, without_lines
from kaiyuan.corpus.pii import AUDIT
from kaiyuan.corpus.pipeline import HELD_OUT, REJECTED, STAGES, TRAIN
from kaiyuan.corpus.sources.document import Document, document_id, sample_of
from kaiyuan.corpus.sources.jsonl import parser
from kaiyuan.corpus.split import is_held_out
from kaiyuan.corpus.text import Hashes, Places
from kaiyuan.corpus.units import units as units_of
from kaiyuan.files import atomic_file
from kaiyuan.progress import Progress, quantity, say

MEMORY = 2**30
"""Bytes that sorting may take at a time."""
NOT_ENOUGH = "too short without shared lines"


def assemble(
    store: CleanStore,
    units: Sequence[CleaningUnit],
    out: Path,
    *,
    memory: int = MEMORY,
    groups: Iterable[Places] | None = None,
) -> dict[str, Any]:
    """Write ``train.jsonl``, ``heldout.jsonl`` (documents) and ``rejected.jsonl`` into ``out``; returns the report.

    With an audit also ``pii.jsonl``: what was replaced where in the documents that stay. All appear when everything
    has gone well. ``groups``: see ``dedup.decide``. The report is ready for JSON: ``documents`` left after each
    stage, UTF-8 ``bytes`` by split, language and label, ``rejected`` by reason, the same by language in ``filters``,
    ``pii`` replaced, ``furniture`` taken out.
    """
    settings = store.settings
    records = store.records(units)
    decisions = decide(records, settings.dedup_threshold, urls=settings.dedup_urls, memory=memory, groups=groups)
    common = np.zeros(0, dtype=np.uint64)
    if settings.line_documents:
        paths = store.line_paths(units)
        common = common_lines(records, paths, decisions.kept, settings.line_documents, memory)
    with ExitStack() as stack:
        names = (TRAIN, HELD_OUT, REJECTED, *((AUDIT,) if store.key is not None else ()))
        streams = [_open(stack, out / name) for name in names]
        writing = _Writing(store, records, decisions, common, streams)
        with Progress("writing the corpus", max(len(records), 1), "documents") as progress:
            for number, unit in enumerate(units):
                writing.unit(number, unit)
                progress.update(int(records.starts[number + 1] - records.starts[number]))
    report = writing.report()
    say(_summary(report))
    return report


def _open(stack: ExitStack, path: Path) -> BinaryIO:
    temporary = stack.enter_context(atomic_file(path))
    return stack.enter_context(temporary.open("wb"))


class _Writing:
    """Copies what stays, says of the rest why it goes, and counts."""

    def __init__(
        self, store: CleanStore, records: Records, decisions: Decisions, common: Hashes, streams: list[BinaryIO]
    ) -> None:
        self.store, self.records, self.decisions, self.common = store, records, decisions, common
        self.train, self.held_out, self.rejected, *self.audit = streams
        self.settings, self.parse = store.settings, parser()
        self.tally = Tally()
        self.kept: Counter[str] = Counter()
        self.bytes: dict[str, dict[str, Counter[str]]] = {split: defaultdict(Counter) for split in ("train", "heldout")}
        self.changed: set[str] = set()
        self.lines_gone = 0

    def unit(self, number: int, unit: CleaningUnit) -> None:
        tally = self.store.tally(unit)
        self.tally.merge(tally)
        for line in self.store.rejected(unit):
            self.rejected.write(line)
        start, stop = (int(place) for place in self.records.starts[number : number + 2])
        fields = ["id", "language", "label", "bytes", "lines"]
        table = self.records.take(np.arange(start, stop), fields)
        shared = self._sharing(unit, table["lines"])
        lines, kept = self.store.lines(unit.key), dict[int, str]()
        for offset, (line, row) in enumerate(zip(lines, table.tolist(), strict=True)):
            identity, language, label, size, _ = row
            if self.decisions.verdicts[start + offset]:
                self._drop(start + offset, line, size)
            elif shared[offset]:
                kept[offset] = self._without_shared_lines(line)
            else:
                kept[offset] = f"{identity:016x}"
                self._keep(kept[offset], tally.languages[language], tally.labels[label], size, line)
        for stream in self.audit:
            for found in self.store.audit(unit):
                if document := kept.get(found.pop("number")):
                    stream.write(encoded({**found, "document": document}))

    def _sharing(self, unit: CleaningUnit, counts: Any) -> Any:
        """Which of a unit's documents have a line that many share."""
        if not len(self.common):
            return np.zeros(len(counts), dtype=bool)
        (path,) = self.store.line_paths([unit])
        listed = np.concatenate(([0], np.cumsum(among(np.fromfile(path, dtype="<u8"), self.common))))
        ends = np.cumsum(counts, dtype=np.int64)
        return listed[ends] > listed[ends - counts]

    def _keep(self, identity: str, language: str, label: str, size: int, line: bytes) -> None:
        held = is_held_out(identity, self.settings.held_out_share)
        split, stream = ("heldout", self.held_out) if held else ("train", self.train)
        stream.write(line)
        self.kept[split] += 1
        self.bytes[split][language][label] += size

    def _drop(self, number: int, line: bytes, size: int) -> None:
        numbers, keepers, shares = self.decisions.gone
        place = int(np.searchsorted(numbers, number))
        keeper = f"{int(self.records.take(keepers[place : place + 1], ['id'])['id'][0]):016x}"
        why = int(self.decisions.verdicts[number])
        if why == NEAR:
            detail = f"{shares[place]:.0%} like {keeper}"
        else:
            detail = f"{keeper} is kept" if why == URL else f"same text as {keeper}"
        self._reject(Document(**self.parse(line)), "deduplication", NAMES[why], detail, size)

    def _reject(self, document: Document, stage: str, kind: str, detail: str, size: int) -> None:
        self.tally.stopped[stage] += 1
        self.tally.drop(kind, document.language, size)
        row = {"id": document.id, "source": document.source, "place": document.place, "language": document.language,
               "reason": f"{kind}: {detail}", "sample": sample_of(document.text)}  # fmt: skip
        self.rejected.write(encoded(row))

    def _without_shared_lines(self, line: bytes) -> str:
        """The id of what is left of a document, "" if that is too little or there already."""
        document = Document(**self.parse(line))
        text, gone = without_lines(document.text, self.common)
        self.lines_gone += gone
        if text != document.text:
            document = replace(document, id=document_id(text), text=text)
        size = len(text.encode())
        count = len(units_of(text))
        if len(text) < self.settings.min_chars or count < self.settings.quality.min_units:
            self._reject(document, "deduplication", NOT_ENOUGH, f"{count} units are left", size)
            return ""
        if document.id in self.changed:
            self._reject(document, "deduplication", "duplicate", f"same text as {document.id}", size)
            return ""
        self.changed.add(document.id)
        self._keep(document.id, document.language, document.label, size, encoded(document.row()))
        return document.id

    def report(self) -> dict[str, Any]:
        tally, left = self.tally, self.tally.read
        counts = {"read": left}
        for stage in STAGES:
            left -= tally.stopped[stage]
            if stage != "decontamination" or self.store.contamination is not None:
                counts[f"after {stage}"] = left
        filters = {kind: by_language(counted) for kind, counted in _most_first(tally.kinds)}
        sizes = {
            split: {language: dict(sorted(labels.items())) for language, labels in sorted(languages.items())}
            for split, languages in self.bytes.items()
        }
        furniture = dict(tally.furniture.most_common())
        if self.lines_gone:
            furniture["shared by many"] = self.lines_gone
        return {
            "documents": {**counts, "train": self.kept["train"], "heldout": self.kept["heldout"]},
            "bytes": {"read": tally.bytes, **sizes},
            "rejected": {kind: sum(row["documents"] for row in rows.values()) for kind, rows in filters.items()},
            "filters": filters,
            "pii": dict(sorted(tally.pii.items())),
            "furniture": furniture,
        }


def by_language(counts: Counter[str]) -> dict[str, dict[str, int]]:
    """One reason's counts of a ``Tally`` as documents and bytes of each language."""
    languages = sorted(name for name in counts if not name.startswith("bytes "))
    return {name: {"documents": counts[name], "bytes": counts[f"bytes {name}"]} for name in languages}


def _most_first(kinds: dict[str, Counter[str]]) -> Iterator[tuple[str, Counter[str]]]:
    def documents(item: tuple[str, Counter[str]]) -> int:
        return sum(count for name, count in item[1].items() if not name.startswith("bytes "))

    yield from sorted(kinds.items(), key=lambda item: (-documents(item), item[0]))


def encoded(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _summary(report: dict[str, Any]) -> str:
    counts, sizes = report["documents"], report["bytes"]
    kept = sum(size for split in ("train", "heldout") for labels in sizes[split].values() for size in labels.values())
    return (
        f"corpus: {counts['read']:,} documents ({quantity(sizes['read'])}B) read, {counts['train']:,} for training and "
        f"{counts['heldout']:,} held out ({quantity(kept)}B), {sum(report['pii'].values()):,} personal data replaced"
    )
