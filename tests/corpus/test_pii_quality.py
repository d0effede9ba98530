"""Precision and recall on the labelled texts, by kind and language; the floors are what was measured, less a little."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from kaiyuan.corpus.pii import KINDS, Finding, PrivacySettings, find
from kaiyuan.corpus.pii.score import Case, Score, read_cases, score
from kaiyuan.errors import DataError

DATA = Path(__file__).parent / "data"
FILES = ("privacy.jsonl", "privacy_unseen.jsonl")
ALL_KINDS = PrivacySettings(kinds=list(KINDS))
# (precision, recall), spans exact; everything else must be perfect.
FLOORS = {
    ("email", "zh"): (1.0, 0.92), ("phone", "en"): (1.0, 0.87), ("phone", "zh"): (1.0, 0.91),
    ("passport", "en"): (1.0, 0.92), ("passport", "zh"): (1.0, 0.92), ("name", "en"): (1.0, 0.71),
    ("name", "zh"): (0.92, 0.76),
}  # fmt: skip


@cache
def cases(name: str = FILES[0]) -> list[Case]:
    return read_cases(DATA / name)


@cache
def scores() -> dict[tuple[str, str], Score]:
    return score(cases(), [find(case.text, ALL_KINDS) for case in cases()])


def test_the_set_is_large_and_balanced() -> None:
    for language in ("en", "zh"):
        texts = [case for case in cases() if case.language == language]
        assert sum(bool(case.spans) for case in texts) >= 100
        assert sum(not case.spans for case in texts) >= 100
    assert {span.kind for case in cases() for span in case.spans} == set(KINDS)
    assert {case.about for case in cases() if not case.spans} == set(KINDS)
    texts = [case.text for name in FILES for case in cases(name)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", KINDS)
def test_precision_and_recall_by_kind_and_language(kind: str, language: str) -> None:
    precision, recall = FLOORS.get((kind, language), (1.0, 1.0))
    measured = scores()[kind, language]
    assert measured.precision >= precision, f"precision {measured.precision:.3f}"
    assert measured.recall >= recall, f"recall {measured.recall:.3f}"


def test_texts_that_the_patterns_were_not_written_with() -> None:
    unseen = cases(FILES[1])
    by_kind = score(unseen, [find(case.text) for case in unseen])
    labelled = [value for (kind, _), value in by_kind.items() if kind != "name"]
    assert sum(value.labelled_hit for value in labelled) >= 0.95 * sum(value.labelled for value in labelled)
    assert sum(value.found_right for value in labelled) >= 0.93 * sum(value.found for value in labelled)


def test_score_counts_what_it_says() -> None:
    case = Case(
        "1", "en", "ip", "x" * 40, (Finding(0, 10, "ip", ""), Finding(20, 30, "ip", ""), Finding(30, 35, "id", ""))
    )
    found = [
        Finding(0, 10, "ip", ""),
        Finding(20, 28, "ip", ""),
        Finding(31, 35, "ip", ""),
        Finding(36, 38, "card", ""),
    ]
    exact, half = score([case], [found]), score([case], [found], overlap=0.5)
    assert (exact["ip", "en"].recall, exact["ip", "en"].precision) == (1 / 2, 1 / 3)
    assert (half["ip", "en"].recall, half["ip", "en"].precision) == (1.0, 2 / 3)
    assert (half["id", "en"].labelled, half["id", "en"].labelled_hit) == (1, 0)
    assert half["card", "en"].precision == 0.0


def test_a_label_that_is_not_where_its_value_is(tmp_path: Path) -> None:
    row = {"id": "a", "language": "en", "about": "ip", "text": "at 8.8.8.8", "spans": [
        {"kind": "ip", "start": 2, "end": 9, "value": "8.8.8.8"}]}  # fmt: skip
    (tmp_path / "cases.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"cases\.jsonl: case a: a span is not where its value is"):
        read_cases(tmp_path / "cases.jsonl")
