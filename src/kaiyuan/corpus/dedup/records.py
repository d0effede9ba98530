"""What is kept of each document for deduplication, in files of fixed-size records, one file a unit of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.dedup.signature import MINIMA
from kaiyuan.corpus.text import Places, mixed

Table = NDArray[np.void]
_SLICE = 4096


def record_type(bands: int) -> np.dtype[np.void]:
    """The fields of a record, little-endian and packed, so that files mean the same everywhere."""
    return np.dtype(
        [
            ("id", "<u8"),  # of the text: two documents with the same id have the same text
            ("url", "<u8"),  # hash of the normalised URL; 0 for none
            ("tie", "<u8"),  # hash of source, place and URL: what settles a tie
            ("score", "<f4"),  # quality
            ("units", "<u4"),
            ("lines", "<u4"),  # how many line hashes belong to it
            ("language", "<u2"),
            ("label", "<u2"),
            ("bytes", "<u4"),
            ("sketch", "u1", (MINIMA,)),
            ("bands", "<u8", (bands,)),
        ]
    )


class Records:
    """All records of a corpus, numbered through in the order of units; read in slices and never held as a whole."""

    def __init__(self, paths: Sequence[Path], bands: int) -> None:
        self.type, self.paths = record_type(bands), list(paths)
        sizes = [path.stat().st_size // self.type.itemsize for path in self.paths]
        self.starts: Places = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def slices(self, fields: Sequence[str]) -> Iterator[tuple[int, Table]]:
        """Number of the first record, and the ``fields`` of some thousand records, from the first to the last."""
        for path, start in zip(self.paths, self.starts.tolist(), strict=False):
            with path.open("rb") as stream:
                while data := stream.read(self.type.itemsize * _SLICE):
                    table = np.frombuffer(data, dtype=self.type)
                    yield start, table[list(fields)]
                    start += len(table)

    def take(self, numbers: Places, fields: Sequence[str]) -> Table:
        """The ``fields`` of some records, which are read one by one where they lie."""
        names = list(fields)
        found = np.zeros(len(numbers), dtype=[(name, self.type[name]) for name in names])
        order = np.argsort(numbers, kind="stable")
        cuts = np.searchsorted(numbers[order], self.starts)
        for path, start, first, last in zip(self.paths, self.starts, cuts[:-1], cuts[1:], strict=False):
            if first < last:
                table = np.memmap(path, dtype=self.type, mode="r")
                mine = order[first:last]
                rows = table[numbers[mine] - start]
                for name in names:
                    found[name][mine] = rows[name]
        return found


def best_first(table: Table, numbers: Places) -> Places:
    """Places in ``table`` from the best document to the worst.

    The higher score is better, then the longer text, then a hash of the id, then the hash of where it is from; only
    between records that agree in all of it does their number decide. The id itself would not do: it also decides what
    is held out, and the lowest of several ids would be held out more often than others.
    """
    size = -table["units"].astype(np.int64)
    order: Places = np.lexsort((numbers, table["tie"], mixed(table["id"]), size, -table["score"]))
    return order


RANKED = ("score", "units", "id", "tie")
"""The fields that ``best_first`` needs."""
