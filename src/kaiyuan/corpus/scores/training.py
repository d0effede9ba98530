"""Training scorers: seven tenths of the labels fit the model, three twentieths calibrate it, the rest measure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaiyuan.corpus.scores.calibration import Calibration, isotonic, platt, temperature
from kaiyuan.corpus.scores.config import ScorerSettings
from kaiyuan.corpus.scores.encoders import Encoder
from kaiyuan.corpus.scores.labels import POSITIVE, Labelled, unique
from kaiyuan.corpus.scores.linear import csr, fit
from kaiyuan.corpus.scores.measures import measure_choice, measure_yes
from kaiyuan.corpus.scores.scorer import CATEGORY, Head, LinearScorer
from kaiyuan.errors import DataError
from kaiyuan.progress import say

FIT, CALIBRATE = 14, 17
"""Of 20 parts by hash: below 14 to fit, below 17 to calibrate, the others to measure."""
_FEWEST = 5
"""Examples of each kind that each part must have."""


def train(rows: Sequence[Labelled], encoder: Encoder, settings: ScorerSettings) -> LinearScorer:
    """A scorer with a head for every dimension that has labels, and under ``report`` what it is worth.

    Deterministic: the same rows in any order give the same weights. A ``DataError`` says of which label there is too
    little.
    """
    rows = unique(rows)
    parts = [
        [row for row in rows if row.part in range(*limits)] for limits in ((0, FIT), (FIT, CALIBRATE), (CALIBRATE, 20))
    ]
    if not all(parts):
        raise DataError(f"{len(rows)} labelled texts are too few to fit, calibrate and measure; give some hundreds")
    matrices = [encoder.matrix([row.text for row in part]) for part in parts]
    heads, report = [], {}
    for name in settings.dimensions:
        found = _choice(parts, matrices, settings) if name == CATEGORY else _yes(name, parts, matrices, settings)
        if found is not None:
            heads.append(found[0])
            report[name] = found[1]
            say(f"scorer: {name}: {found[1]['summary']}")
    if not heads:
        raise DataError("no dimension of the scorer has labels")
    counts = dict(zip(("fit", "calibrate", "measure"), map(len, parts), strict=True))
    about = {"documents": counts, "settings": settings.model_dump(), "dimensions": report}
    return LinearScorer(encoder, heads, about)


Parts = list[list[Labelled]]
Matrices = list[Tensor]


def _chosen(parts: Parts, matrices: Matrices, has: Callable[[Labelled], bool]) -> tuple[Parts, Matrices]:
    """The rows that have a label."""
    places = [[index for index, row in enumerate(part) if has(row)] for part in parts]
    rows = [[part[index] for index in mine] for part, mine in zip(parts, places, strict=True)]
    return rows, [_rows(matrix, mine) for matrix, mine in zip(matrices, places, strict=True)]


def _rows(matrix: Tensor, places: list[int]) -> Tensor:
    if len(places) == matrix.shape[0]:
        return matrix
    if matrix.layout == torch.strided:
        return matrix[places]
    starts, stops = matrix.crow_indices()[:-1].tolist(), matrix.crow_indices()[1:].tolist()
    inside = [torch.arange(starts[place], stops[place]) for place in places]
    taken = torch.cat(inside) if inside else torch.zeros(0, dtype=torch.long)
    ends = torch.tensor([0, *np.cumsum([len(part) for part in inside]).tolist()])
    return csr(ends, matrix.col_indices()[taken], matrix.values()[taken], (len(places), matrix.shape[1]))  # fmt: skip


def _yes(name: str, parts: Parts, matrices: Matrices, settings: ScorerSettings) -> tuple[Head, dict[str, Any]] | None:
    parts, matrices = _chosen(parts, matrices, lambda row: name in row.grades)
    if not any(parts):
        return None
    labels = [np.array([float(row.grades[name] >= POSITIVE) for row in part]) for part in parts]
    for what, found in zip(("fit", "calibrate", "measure"), labels, strict=True):
        if min(found.sum(), len(found) - found.sum()) < _FEWEST:
            raise DataError(
                f"{name}: {len(found)} labels to {what}, {int(found.sum())} of them of grade {POSITIVE} or more; at "
                f"least {_FEWEST} on both sides are needed: label more, or leave it out of scorer.dimensions"
            )
    weights, bias = fit(matrices[0], torch.from_numpy(labels[0]).long(), 2, settings.c)
    margins = [(matrix @ weights + bias)[:, 0].numpy() for matrix in matrices]
    calibration = {"isotonic": isotonic, "platt": platt}[settings.calibration](margins[1], labels[1])
    head = Head(name, weights.float(), bias.float(), calibration)
    plain = Calibration("platt", (1.0, 0.0))
    languages = [row.language for row in parts[2]]
    report = measure_yes(calibration(margins[2]), plain(margins[2]), labels[2], languages)
    return head, {"labels": int(sum(map(len, labels))), **report}


def _choice(parts: Parts, matrices: Matrices, settings: ScorerSettings) -> tuple[Head, dict[str, Any]] | None:
    parts, matrices = _chosen(parts, matrices, lambda row: bool(row.category))
    if not any(parts):
        return None
    classes = sorted({row.category for row in parts[0]})
    parts, matrices = _chosen(parts, matrices, lambda row: row.category in classes)
    if len(classes) < 2 or not all(parts):
        raise DataError(f"category: {len(classes)} categories are too few to tell apart; label more")
    labels = [np.array([classes.index(row.category) for row in part]) for part in parts]
    # Two columns and softmax for two categories too, so that a head always has one for each.
    weights, bias = fit(matrices[0], torch.from_numpy(labels[0]), max(3, len(classes)), settings.c)
    weights, bias = weights[:, : len(classes)], bias[: len(classes)]
    margins = [(matrix @ weights + bias).numpy() for matrix in matrices]
    head = Head(CATEGORY, weights.float(), bias.float(), None, tuple(classes), temperature(margins[1], labels[1]))
    languages = [row.language for row in parts[2]]
    report = measure_choice(head.probabilities(margins[2]), labels[2], classes, languages)
    return head, {"labels": int(sum(map(len, labels))), **report}
