"""Precision and recall of a detector of personal data on texts with labelled spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.corpus.pii.spans import Finding
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl


@dataclass(frozen=True)
class Case:
    """A text with everything in it that ought to be found; ``about`` is the kind that it has, or is a trap for."""

    id: str
    language: str
    about: str
    text: str
    spans: tuple[Finding, ...]


@dataclass
class Score:
    """``labelled`` spans, ``found`` ones, and the hits of both: a find can lie across two labels, or two in one."""

    labelled: int = 0
    found: int = 0
    labelled_hit: int = 0
    found_right: int = 0

    @property
    def recall(self) -> float:
        return self.labelled_hit / self.labelled if self.labelled else float("nan")

    @property
    def precision(self) -> float:
        return self.found_right / self.found if self.found else float("nan")


def read_cases(path: Path) -> list[Case]:
    """Rows with ``id``, ``language``, ``about``, ``text`` and ``spans`` of ``kind``, ``start``, ``end`` and ``value``.

    A ``DataError`` names the file and the case where a ``value`` is not what the text has there.
    """
    return [_case(path, row) for row in read_jsonl(path)]


def _case(path: Path, row: Mapping[str, Any]) -> Case:
    try:
        spans = tuple(Finding(span["start"], span["end"], span["kind"], "label") for span in row["spans"])
        case = Case(row["id"], row["language"], row["about"], row["text"], spans)
        values = [span["value"] for span in row["spans"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a case without {error}: {str(row)[:80]}") from None
    if [case.text[span.start : span.end] for span in case.spans] != values:
        raise DataError(f"{path}: case {case.id}: a span is not where its value is")
    return case


def score(
    cases: Sequence[Case], found: Iterable[Sequence[Finding]], overlap: float = 1.0
) -> dict[tuple[str, str], Score]:
    """Scores by (kind, language).

    A find hits a label of its kind if the length that they share is at least ``overlap`` of the length that they
    cover together: 1 asks for the very same span, 0.5 forgives a sign or a country code more or less.
    """
    scores: dict[tuple[str, str], Score] = {}
    for case, findings in zip(cases, found, strict=True):
        for label in case.spans:
            entry = scores.setdefault((label.kind, case.language), Score())
            entry.labelled += 1
            entry.labelled_hit += any(_same(label, finding, overlap) for finding in findings)
        for finding in findings:
            entry = scores.setdefault((finding.kind, case.language), Score())
            entry.found += 1
            entry.found_right += any(_same(label, finding, overlap) for label in case.spans)
    return scores


def _same(label: Finding, finding: Finding, overlap: float) -> bool:
    shared = min(label.end, finding.end) - max(label.start, finding.start)
    together = max(label.end, finding.end) - min(label.start, finding.start)
    return label.kind == finding.kind and shared > 0 and shared >= overlap * together
