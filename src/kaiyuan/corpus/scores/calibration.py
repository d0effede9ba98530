"""From margins to probabilities that mean what they say, and how far they are from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A rising function of the margin: straight lines between knots (``isotonic``) or a sigmoid (``platt``)."""

    kind: str
    x: tuple[float, ...]
    """Margins of the knots; of a sigmoid (slope, intercept)."""
    y: tuple[float, ...] = ()

    def __call__(self, margins: Floats) -> Floats:
        if self.kind == "platt":
            return sigmoid(self.x[0] * np.asarray(margins, dtype=np.float64) + self.x[1])
        return np.interp(margins, self.x, self.y)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "x": list(self.x), "y": list(self.y)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibration:
        return cls(values["kind"], tuple(values["x"]), tuple(values["y"]))


def sigmoid(margins: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -margins))


def isotonic(margins: Floats, labels: Floats) -> Calibration:
    """The rising step function closest to the labels by least squares (pool adjacent violators), joined by lines.

    Its ends are kept off 0 and 1, by what one document more of either kind would do: few labels make nobody certain.
    """
    x, place, counts = np.unique(margins, return_inverse=True, return_counts=True)
    sums = np.bincount(place, weights=labels)
    blocks: list[list[float]] = []  # [sum, count, first, last]
    for index, (total, count) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True)):
        blocks.append([total, count, index, index])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total_above, count_above, _, last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total_above, blocks[-1][1] + count_above, blocks[-1][2], last]
    knots: list[tuple[float, float]] = []
    for total, count, first, last in blocks:
        value = min(max(total / count, 1 / (count + 2)), 1 - 1 / (count + 2))
        value = max(value, knots[-1][1]) if knots else value
        knots += [(float(x[int(place)]), value) for place in dict.fromkeys((first, last))]
    return Calibration("isotonic", tuple(knot[0] for knot in knots), tuple(knot[1] for knot in knots))


def platt(margins: Floats, labels: Floats) -> Calibration:
    """A sigmoid by maximum likelihood on Platt's smoothed targets (Platt 1999), by Newton's method."""
    positive = float(labels.sum())
    negative = len(labels) - positive
    targets = np.where(labels > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))
    design = np.stack([margins, np.ones_like(margins)], axis=1)
    found = np.array([0.0, math.log((positive + 1) / (negative + 1))])

    def loss(parameters: Floats) -> float:
        z = design @ parameters
        return float((np.logaddexp(0.0, z) - targets * z).sum())

    for _ in range(100):
        p = sigmoid(design @ found)
        gradient = design.T @ (p - targets)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-10 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while loss(found - size * step) > loss(found) and size > 1e-6:
            size /= 2
        found = found - size * step
        if np.abs(gradient).max() < 1e-9 * max(1, len(labels)):
            break
    return Calibration("platt", (float(found[0]), float(found[1])))


def temperature(margins_NK: Floats, labels_N: NDArray[np.int64]) -> float:
    """What to divide margins by before softmax so that the log loss is least (Guo et al. 2017)."""
    low, high = math.log(0.02), math.log(50.0)  # the loss has one minimum in 1/T
    ratio = (math.sqrt(5) - 1) / 2

    def loss(log_t: float) -> float:
        scaled = margins_NK / math.exp(log_t)
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels_N)), labels_N]).sum())

    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def reliability(probabilities: Floats, labels: Floats, bins: int = 10) -> list[dict[str, float]]:
    """By equal steps of probability: documents, mean probability, share of positives; empty bins are left out."""
    numbers = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    return [
        {
            "count": int(mine.sum()),
            "probability": float(probabilities[mine].mean()),
            "share": float(labels[mine].mean()),
        }
        for number in range(bins)
        if (mine := numbers == number).any()
    ]


def expected_calibration_error(curve: list[dict[str, float]]) -> float:
    """Mean distance of probability and share of positives, weighted by documents (Guo et al. 2017)."""
    total = sum(row["count"] for row in curve)
    return sum(row["count"] * abs(row["probability"] - row["share"]) for row in curve) / max(total, 1)
