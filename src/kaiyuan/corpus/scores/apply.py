"""Scores in a finished corpus: written into its documents, and into the labels that the mixture chooses by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from kaiyuan.corpus.scores.scorer import Scorer
from kaiyuan.files import read_jsonl, write_jsonl
from kaiyuan.progress import Progress

SCORES = "scores"
"""Key of a document's ``extra`` that holds them."""
BEST = "best"
_BATCH = 256


def apply_scores(paths: Sequence[Path], scorers: Sequence[Scorer], documents: int) -> None:
    """Write the scores of all ``scorers`` into ``extra`` of the documents in ``paths`` (each replaced whole).

    Of two scorers that know the same dimension the later one counts.
    """
    with Progress("scoring", max(documents, 1), "documents") as progress:
        for path in paths:
            write_jsonl(path, _scored(path, scorers, progress))


def _scored(path: Path, scorers: Sequence[Scorer], progress: Progress) -> Iterator[dict[str, Any]]:
    source = read_jsonl(path)
    while rows := list(islice(source, _BATCH)):
        texts = [row["text"] for row in rows]
        found = [scorer.score(texts) for scorer in scorers]
        for row, *scores in zip(rows, *found, strict=True):
            merged = dict(chain.from_iterable(score.items() for score in scores))
            yield {**row, "extra": {**row.get("extra", {}), SCORES: merged}}
        progress.update(len(rows))


def relabel(paths: Sequence[Path], by: Sequence[str], best_share: float) -> None:
    """Add to each label what ``by`` names: the ``language``, the ``domain`` of the category, the ``origin`` (natural or
    synthetic), and ``quality``: ``best`` for the documents of the highest scores that make up ``best_share`` of a
    label's text."""
    limits = _limits(paths[0], best_share) if "quality" in by else {}
    for path in paths:
        write_jsonl(path, ({**row, "label": _label(row, by, limits)} for row in read_jsonl(path)))


def label_of_generated(label: str, language: str, by: Sequence[str]) -> str:
    """The same for what the run generates itself, which has no scores."""
    known = {"language": language, "origin": "synthetic"}
    return "-".join((label, *(known[name] for name in by if name in known)))


def value_of(row: dict[str, Any]) -> float:
    """What the best text is chosen by: quality times educational value, each 1 where it is not known."""
    scores = row.get("extra", {}).get(SCORES, {})
    return float(scores.get("quality", 1.0)) * float(scores.get("educational", 1.0)) * (1 - scores.get("toxicity", 0.0))


Rank = tuple[float, str]
"""Value and id: documents of the same value are taken in the order of their hashes, so that a share is a share."""


def _rank(row: dict[str, Any]) -> Rank:
    return value_of(row), row["id"]


def _limits(path: Path, share: float) -> dict[str, Rank]:
    """By label the rank from which on a document is among the best."""
    found: dict[str, list[tuple[Rank, int]]] = {}
    for row in read_jsonl(path):
        found.setdefault(row["label"], []).append((_rank(row), len(row["text"])))
    limits = {}
    for label, rows in found.items():
        rows.sort(reverse=True)
        sizes = np.cumsum([size for _, size in rows])
        limits[label] = rows[int(np.searchsorted(sizes, share * sizes[-1]))][0]
    return limits


def _label(row: dict[str, Any], by: Sequence[str], limits: dict[str, Rank]) -> str:
    parts = [row["label"]]
    for name in by:
        if name == "language":
            parts.append(row["language"])
        elif name == "domain":
            category = row.get("extra", {}).get(SCORES, {}).get("category", "other")
            parts.append(re.sub(r"\W+", "_", category.partition("/")[0]))
        elif name == "origin":
            parts.append("synthetic" if row.get("extra", {}).get("synthetic") else "natural")
        elif row["label"] in limits and _rank(row) >= limits[row["label"]]:
            parts.append(BEST)
    return "-".join(parts)
