"""Samples that ask nearly the same: of each group the best stays, whatever the order (``kaiyuan.corpus.dedup``).

Compared is what is asked, the system's message included: the same question under another role is another instruction.
The best is what people keep, then what has the higher grade, then what has the longer answer. Texts shorter than a
shingle (5 words, 8 Han characters) are only alike if they are the same, case, spaces and punctuation aside; signs of
arithmetic count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import numpy as np

from kaiyuan.corpus.dedup import Records, Signer, decide, record_type, shingles
from kaiyuan.corpus.text import Hashes
from kaiyuan.corpus.units import units
from kaiyuan.curation.log import Standing
from kaiyuan.curation.sample import Sample
from kaiyuan.errors import KaiyuanError

_BATCH = 1024
_SIGNS = str.maketrans({sign: f" sign{ord(sign)} " for sign in "+-*/=<>^%×÷±√≤≥≠−"})
"""Signs that make another question of the same words, as units: 2 + 3 is not 2 - 3."""


@dataclass(frozen=True)
class Like:
    """Why a sample goes: the one that stays for it, and how alike what they ask is (Jaccard similarity, estimated)."""

    keeper: str
    similarity: float
    same: bool
    """They say the same, answers included."""


class Crowd:
    """Samples to compare: their records on disk (some 200 bytes each), in memory only their names."""

    def __init__(self, threshold: float) -> None:
        try:
            self._signer = Signer(threshold)
        except ImportError:
            raise KaiyuanError("finding near-duplicates needs rensa: pip install 'kaiyuan[corpus]'") from None
        self.threshold = threshold
        self._folder = TemporaryDirectory(prefix="kaiyuan-near-")
        self._path = Path(self._folder.name) / "records"
        self._path.touch()
        self._names: list[str] = []
        self._whole: list[bytes] = []
        self._waiting: list[tuple[Sample, float, str, Hashes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def add(self, sample: Sample, standing: Standing) -> None:
        text = _asked(sample).lower().translate(_SIGNS)
        words = " ".join(units(text))
        asked = words or text
        found = shingles(words) if words else np.array([int.from_bytes(_digest(text))], dtype=np.uint64)
        self._names.append(sample.hash)
        self._whole.append(_digest(asked + "\0" + " ".join(sample.answer.lower().split())))
        self._waiting.append((sample, worth(standing), asked, found))
        if len(self._waiting) >= _BATCH:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        table = np.zeros(len(waiting), dtype=record_type(self._signer.bands))
        table["id"] = [int.from_bytes(_digest(asked)) for _, _, asked, _ in waiting]
        table["tie"] = [int(sample.hash, 16) for sample, *_ in waiting]
        table["score"] = [value for _, value, _, _ in waiting]
        table["units"] = [len(units(sample.answer)) for sample, *_ in waiting]
        table["sketch"], table["bands"] = self._signer.sign([found for *_, found in waiting])
        with self._path.open("ab") as stream:
            stream.write(table.tobytes())

    def gone(self) -> Iterator[tuple[str, Like]]:
        """The samples that go, by name, each with the one that stays for it."""
        self._write()
        decisions = decide(Records([self._path], self._signer.bands), self.threshold, urls=False)
        for number, keeper, similarity in zip(*(part.tolist() for part in decisions.gone), strict=True):
            same = self._whole[number] == self._whole[keeper]
            yield self._names[number], Like(self._names[keeper], round(similarity, 3), same)


def worth(standing: Standing) -> float:
    """What the best of several is chosen by, the answer's length aside: people first, then the critique's grade."""
    return 10.0 * ((standing.votes > 0) - (standing.votes < 0)) + standing.grade


def _asked(sample: Sample) -> str:
    return "\n\n".join(message["content"] for message in sample.messages if message["role"] != "assistant")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]
