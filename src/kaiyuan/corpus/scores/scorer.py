"""Scorers: heads of linear models on one encoder, kept as scorer.json and scorer.safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kaiyuan.corpus.scores.calibration import Calibration
from kaiyuan.corpus.scores.encoders import Embed, EmbeddingEncoder, Encoder, NgramEncoder
from kaiyuan.corpus.scores.toxicity import toxic_floor
from kaiyuan.errors import DataError
from kaiyuan.files import atomic_folder, read_json, write_json

VERSION = 1
BINARY = ("quality", "educational", "toxicity")
"""What is a probability; ``category`` is a choice."""
CATEGORY = "category"
Scores = dict[str, Any]
_JSON, _TENSORS = "scorer.json", "scorer.safetensors"


class Scorer(Protocol):
    """Anything that judges texts."""

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """For each text probabilities under ``quality``, ``educational``, ``toxicity`` and, where known, ``category``
        (``domain/topic``) with ``category_confidence``."""
        ...


@dataclass(frozen=True)
class Head:
    """One dimension. ``classes`` is empty for a probability."""

    name: str
    weights_CK: Tensor
    bias_K: Tensor
    calibration: Calibration | None = None
    classes: tuple[str, ...] = ()
    temperature: float = 1.0

    def probabilities(self, margins_NK: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(N,) for a probability, (N, K) for a choice."""
        if self.classes:
            scaled = margins_NK.astype(np.float64) / self.temperature
            return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))
        assert self.calibration is not None
        return self.calibration(margins_NK[:, 0].astype(np.float64))


@dataclass
class LinearScorer:
    """Heads on one encoder."""

    encoder: Encoder
    heads: list[Head]
    report: dict[str, Any] = field(default_factory=dict)
    """What was measured when it was trained."""

    def __post_init__(self) -> None:
        self._weights_CK = torch.cat([head.weights_CK for head in self.heads], 1).float().contiguous()
        self._bias_K = torch.cat([head.bias_K for head in self.heads]).float()

    def margins(self, texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """(N, K) by the name of each head."""
        found = (self.encoder.margins(texts, self._weights_CK) + self._bias_K).numpy()
        parts = np.split(found, np.cumsum([len(head.bias_K) for head in self.heads])[:-1], axis=1)
        return {head.name: part for head, part in zip(self.heads, parts, strict=True)}

    def score(self, texts: Sequence[str]) -> list[Scores]:
        rows: list[Scores] = [{} for _ in texts]
        if not rows:
            return rows
        margins = self.margins(texts)
        for head in self.heads:
            found = head.probabilities(margins[head.name])
            if head.classes:
                for row, values in zip(rows, found, strict=True):
                    row[CATEGORY] = choice_of(head.classes, values)
                    row["category_confidence"] = round(float(values[head.classes.index(row[CATEGORY])]), 4)
            else:
                for row, text, value in zip(rows, texts, found.tolist(), strict=True):
                    value = max(value, toxic_floor(text)) if head.name == "toxicity" else value
                    row[head.name] = round(value, 4)
        return rows

    def save(self, folder: Path) -> None:
        """Write the folder whole or not at all. Rows of weights that are all zero are left out."""
        used = torch.nonzero(self._weights_CK.abs().sum(1)).flatten()
        heads = [
            {"name": head.name, "size": len(head.bias_K), "classes": list(head.classes),
             "temperature": head.temperature,
             "calibration": None if head.calibration is None else head.calibration.as_json()}
            for head in self.heads
        ]  # fmt: skip
        about = {"version": VERSION, "encoder": self.encoder.settings(), "rows": len(self._weights_CK), "heads": heads}
        with atomic_folder(folder) as temporary:
            tensors = {"rows": used, "weights": self._weights_CK[used].contiguous(), "bias": self._bias_K}
            save_file(tensors, temporary / _TENSORS)
            write_json(temporary / _JSON, {**about, "report": self.report})


def choice_of(classes: Sequence[str], values: np.ndarray[Any, Any]) -> str:
    """The likeliest topic of the likeliest domain: a domain's probability is the sum of its topics'."""
    domains: dict[str, float] = {}
    for name, value in zip(classes, values.tolist(), strict=True):
        domain = name.partition("/")[0]
        domains[domain] = domains.get(domain, 0.0) + value
    best = max(domains, key=lambda domain: domains[domain])
    inside = [index for index, name in enumerate(classes) if name.partition("/")[0] == best]
    return classes[max(inside, key=lambda index: values[index])]


def load_scorer(folder: str | Path, embed: Embed | None = None) -> LinearScorer:
    """A scorer that ``save`` wrote. One on embeddings needs ``embed``, the function it was trained with."""
    folder = Path(folder)
    about = read_json(folder / _JSON)
    try:
        if about["version"] != VERSION:
            raise DataError(f"{folder}: a scorer of version {about['version']}; this kaiyuan reads {VERSION}")
        tensors = load_file(folder / _TENSORS)
        weights = torch.zeros(about["rows"], tensors["weights"].shape[1])
        weights[tensors["rows"]] = tensors["weights"]
        heads = list(_heads(about["heads"], weights, tensors["bias"]))
        return LinearScorer(_encoder(folder, about["encoder"], embed), heads, about["report"])
    except (KeyError, TypeError, IndexError, RuntimeError, OSError, SafetensorError) as error:
        raise DataError(f"{folder}: not a whole scorer ({type(error).__name__}: {error}); train it again") from None


def _heads(entries: list[dict[str, Any]], weights: Tensor, bias: Tensor) -> Iterable[Head]:
    start = 0
    for entry in entries:
        stop = start + entry["size"]
        calibration = entry["calibration"] and Calibration.from_json(entry["calibration"])
        yield Head(entry["name"], weights[:, start:stop], bias[start:stop], calibration, tuple(entry["classes"]),
                   entry["temperature"])  # fmt: skip
        start = stop


def _encoder(folder: Path, settings: dict[str, Any], embed: Embed | None) -> Encoder:
    if settings["kind"] == "ngrams":
        return NgramEncoder(settings["bits"])
    if embed is None:
        raise DataError(f"{folder}: it stands on embeddings of {settings['name']}; pass embed=")
    return EmbeddingEncoder(embed, settings["name"])
