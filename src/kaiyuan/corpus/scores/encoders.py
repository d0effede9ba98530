"""Texts as features: hashed n-grams of words and Han characters, or vectors of any embedding model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kaiyuan.corpus.scores.linear import csr
from kaiyuan.corpus.text import SINGLE, Text, mixed, ngrams, sample

LONGEST = 20_000
"""Characters of a text that are looked at: evenly spaced pieces of a longer one."""
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors (N, D)."""


class Encoder(Protocol):
    """What a linear model stands on."""

    def matrix(self, texts: Sequence[str]) -> Tensor:
        """(N, C) float64, sparse (CSR) or dense."""
        ...

    def margins(self, texts: Sequence[str], weights_CK: Tensor) -> Tensor:
        """(N, K): what ``matrix(texts) @ weights_CK`` is, computed as fast as it can be."""
        ...

    def settings(self) -> dict[str, Any]:
        """For JSON; ``kind`` says which encoder it is."""
        ...


class NgramEncoder:
    """Runs of one and two units (a word, or a Han character) and three Han characters, each hashed to a column.

    A text with n runs has the value (times it occurs) / sqrt(n) in the column of a run, so that its length is about 1
    whatever its size, and no run has to be counted when it is scored.
    """

    def __init__(self, bits: int = 18) -> None:
        self.bits = bits

    def settings(self) -> dict[str, Any]:
        return {"kind": "ngrams", "bits": self.bits}

    def columns(self, text: str) -> NDArray[np.int64]:
        """The column of every run of units, as often as it occurs."""
        found = Text(sample(text, LONGEST))
        units = found.hashes
        runs = [units, mixed(ngrams(units, 2))]
        three = ngrams(units, 3)
        if len(three):
            runs.append(mixed(three[found.is_(SINGLE)[found.starts[: len(three)]]]))
        return (np.concatenate(runs) >> np.uint64(64 - self.bits)).astype(np.int64)

    def matrix(self, texts: Sequence[str]) -> Tensor:
        columns, values, ends = [], [], [0]
        for text in texts:
            all_columns = self.columns(text)
            found, counts = np.unique(all_columns, return_counts=True)
            columns.append(found)
            values.append(counts / max(1, len(all_columns)) ** 0.5)
            ends.append(ends[-1] + len(found))
        places, amounts = (torch.from_numpy(np.concatenate(part)) for part in (columns, values))
        return csr(torch.tensor(ends), places, amounts, (len(texts), 2**self.bits))

    def margins(self, texts: Sequence[str], weights_CK: Tensor) -> Tensor:
        found = [self.columns(text) for text in texts]
        sizes = torch.tensor([len(columns) for columns in found])
        offsets = torch.cumsum(sizes, 0) - sizes
        sums = torch.nn.functional.embedding_bag(
            torch.from_numpy(np.concatenate(found)), weights_CK, offsets, mode="sum"
        )
        return sums / sizes.clamp(min=1).sqrt()[:, None]


class EmbeddingEncoder:
    """Vectors of an embedding model, brought to length 1. ``name`` says which; vectors of another do not fit."""

    def __init__(self, embed: Embed, name: str) -> None:
        self.embed, self.name = embed, name

    def settings(self) -> dict[str, Any]:
        return {"kind": "embedding", "name": self.name}

    def matrix(self, texts: Sequence[str]) -> Tensor:
        vectors = torch.from_numpy(np.asarray(self.embed(texts), dtype=np.float64))
        return torch.nn.functional.normalize(vectors, dim=1)

    def margins(self, texts: Sequence[str], weights_CK: Tensor) -> Tensor:
        return self.matrix(texts).to(weights_CK.dtype) @ weights_CK
