"""All candidates of sources: records of conversations as they are, texts by the extractors that suit them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources.document import Document, one_line
from kaiyuan.corpus.sources.jsonl import NotJson, parser
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.reading import find_parts, read_part
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.corpus.sources.streams import damage, lines, open_stream
from kaiyuan.curation.extract.candidate import Candidate
from kaiyuan.curation.extract.chats import NoChat, conversation
from kaiyuan.curation.extract.code import functions
from kaiyuan.curation.extract.exercises import exercises
from kaiyuan.curation.extract.lists import lists
from kaiyuan.curation.extract.questions import questions
from kaiyuan.curation.sample import Sample, author_of, language_of, problem_of

_LARGEST_ARRAY = 2**30
"""Bytes of a .json file, which has to be read as a whole."""


@dataclass
class Extracted:
    """What was counted while candidates came."""

    documents: int = 0
    records: int = 0
    samples: Counter[str] = field(default_factory=Counter)
    """By method."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason."""

    def as_json(self) -> dict[str, Any]:
        return {"documents": self.documents, "records": self.records,
                "samples": dict(self.samples), "left_out": dict(self.left_out.most_common())}  # fmt: skip


def extract(sources: Iterable[Source], counts: Extracted) -> Iterator[Sample]:
    """Every different candidate of ``sources`` in order; one that came before is left out and counted."""
    seen = set[str]()
    for source in sources:
        for sample in _of_source(source, counts):
            if sample.hash in seen:
                counts.left_out["same as one before"] += 1
                continue
            seen.add(sample.hash)
            counts.samples[sample.method] += 1
            yield sample


def _of_source(source: Source, counts: Extracted) -> Iterator[Sample]:
    if source.path.endswith(".json"):
        yield from _records(_array(Path(source.path)), source, counts)
        return
    for part, found in find_parts(source):
        named = source.model_copy(update={"format": found, "name": source.name or part.path.name})
        if found == "jsonl":
            yield from _records(_lines(part, named, counts), named, counts)
            continue
        for item in read_part(part, named):
            if isinstance(item, Document):
                yield from of_document(item, counts)
            else:
                counts.left_out[item.kind] += 1


def _lines(part: Part, source: Source, counts: Extracted) -> Iterator[tuple[str, Any]]:
    parse = parser()
    try:
        with open_stream(part.path) as stream:
            for number, _, line in lines(stream, source.largest):
                if line.isspace():
                    continue
                try:
                    yield f"{part.name}:{number}", parse(line)
                except NotJson as error:
                    counts.left_out[error.args[0]] += 1
    except damage():
        counts.left_out["damaged file"] += 1


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    from kaiyuan.errors import DataError
    from kaiyuan.files import read_json

    if path.is_file() and path.stat().st_size > _LARGEST_ARRAY:
        raise DataError(f"{path}: a JSON array of more than 1 GiB; write it as JSON Lines")
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON array of records")
    yield from ((f"{path.name}#{number}", row) for number, row in enumerate(rows, 1))


def _records(rows: Iterator[tuple[str, Any]], source: Source, counts: Extracted) -> Iterator[Sample]:
    """Conversations among records; a record with a text instead is a document."""
    for place, row in rows:
        counts.records += 1
        if not isinstance(row, dict):
            counts.left_out["no object"] += 1
            continue
        try:
            messages = conversation(row)
        except NoChat as error:
            counts.left_out[str(error)] += 1
            continue
        if messages is None:
            text = row.get(source.text)
            document = source.document(text, place) if isinstance(text, str) else None
            if isinstance(document, Document):
                yield from of_document(document, counts)
            else:
                counts.left_out["neither conversation nor text"] += 1
            continue
        if problem := problem_of(messages):
            counts.left_out[_reason(problem)] += 1
            continue
        licence = row.get("licence") or row.get("license") or source.licence
        yield Sample(
            tuple(messages), source=source.name or Path(source.path).name, place=place, method="chat",
            licence=licence if isinstance(licence, str) else json.dumps(licence),
            language=language_of(messages[-1]["content"]), author=_author(row), labels=_table(row, "labels"),
            extra={"provenance": known} if (known := _table(row, "provenance")) else {},
        )  # fmt: skip


def _author(row: dict[str, Any]) -> str:
    """The model that answered, if the record names one."""
    for name in ("author", "model", "model_name", "generator"):
        if isinstance(row.get(name), str):
            return one_line(row[name])
    return author_of(row)


def _table(row: dict[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _reason(problem: str) -> str:
    return "out of turn" if "out of turn" in problem else "empty message" if "is empty" in problem else problem


def of_document(document: Document, counts: Extracted) -> Iterator[Sample]:
    """The candidates of one document; of two that overlap the one that was found first stays."""
    counts.documents += 1
    taken: list[tuple[int, int]] = []
    for found in _candidates(document):
        if any(found.start < end and start < found.end for start, end in taken):
            continue
        taken.append((found.start, found.end))
        messages = ({"role": "user", "content": found.question}, {"role": "assistant", "content": found.answer})
        yield Sample(
            messages, source=document.source, place=document.place, span=(found.start, found.end),
            licence=document.licence, language=language_of(found.question), method=found.method,
        )  # fmt: skip


def _candidates(document: Document) -> Iterator[Candidate]:
    if document.language == "code":
        yield from functions(document.text, str(document.extra.get("programming_language", "")))
        return
    for extractor in (exercises, questions, lists):
        yield from extractor(document.text)
