"""What a scorer is worth on documents it has not seen: precision, recall and ranking by language, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.scores.calibration import Floats, expected_calibration_error, reliability
from kaiyuan.corpus.scores.scorer import choice_of

ALL = "all"


def precision_recall(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> dict[str, Any]:
    """Precision and recall (None where there is nothing to divide by), with the counts."""
    both = int((said & true).sum())
    precision = both / int(said.sum()) if said.any() else None
    recall = both / int(true.sum()) if true.any() else None
    return {"documents": len(true), "positive": int(true.sum()), "precision": precision, "recall": recall}


def auc(scores: Floats, labels: Floats) -> float | None:
    """The chance that a positive is above a negative, ties counted half; None without both."""
    positive = int(labels.sum())
    if not 0 < positive < len(labels):
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[place]
    return float((ranks[labels > 0.5].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))


def measure_yes(probabilities: Floats, plain: Floats, labels: Floats, languages: Sequence[str]) -> dict[str, Any]:
    """Of a probability; ``plain`` is what it was before calibration."""
    curve, before = reliability(probabilities, labels), reliability(plain, labels)

    def of(mine: NDArray[np.bool_]) -> dict[str, Any]:
        found = precision_recall(probabilities[mine] >= 0.5, labels[mine] > 0.5)
        return {**found, "auc": auc(probabilities[mine], labels[mine])}

    rows = _by_language(languages, of)
    ece = expected_calibration_error(curve)
    whole = rows[ALL]
    summary = (
        f"precision {_two(whole['precision'])}, recall {_two(whole['recall'])}, AUC {_two(whole['auc'])}, ECE {ece:.3f}"
    )
    return {
        "languages": rows, "reliability": curve, "ece": ece, "summary": summary,
        "ece_before": expected_calibration_error(before), "reliability_before": before,
        "histogram": np.histogram(probabilities, bins=20, range=(0, 1))[0].tolist(),
    }  # fmt: skip


def measure_choice(
    probabilities: Floats, labels: NDArray[np.int64], classes: Sequence[str], languages: Sequence[str]
) -> dict[str, Any]:
    """Of a category: both levels, each topic, and whether its confidence is right."""
    said = np.array([classes.index(choice_of(classes, row)) for row in probabilities])
    domains = np.array([name.partition("/")[0] for name in classes])
    right, right_domain = said == labels, domains[said] == domains[labels]

    def of(mine: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "documents": int(mine.sum()),
            "topic": float(right[mine].mean()),
            "domain": float(right_domain[mine].mean()),
        }

    topics = {name: precision_recall(said == index, labels == index) for index, name in enumerate(classes)}
    curve = reliability(probabilities[np.arange(len(said)), said], right.astype(float))
    ece = expected_calibration_error(curve)
    return {
        "languages": _by_language(languages, of), "topics": topics, "reliability": curve, "ece": ece,
        "summary": f"{right.mean():.2f} of topics and {right_domain.mean():.2f} of domains right, ECE {ece:.3f}",
    }  # fmt: skip


def _by_language(languages: Sequence[str], of: Callable[[NDArray[np.bool_]], dict[str, Any]]) -> dict[str, Any]:
    names = np.array(languages)
    rows = {ALL: of(np.ones(len(names), dtype=bool))}
    return rows | {str(name): of(names == name) for name in np.unique(names)}


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
