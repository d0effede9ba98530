"""Lines that many documents share are furniture of their sites, and go from all of them.

Counted among the documents that stay after deduplication, so that the lines of a text with many copies are not taken
for furniture. CCNet (Wenzek et al. 2020) hashes paragraphs so; it keeps each one's first occurrence, which would depend
on the order of documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.dedup.records import Records
from kaiyuan.corpus.text import Hashes, Places, Text, pieces

LEAST_CHARACTERS = 4
"""Shorter lines are numbers, names of speakers and the like, common without being furniture."""
_BYTES = 16
_SLICE = 2**16


def line_hashes(views: Iterable[Text]) -> Hashes:
    """The hash of every line that counts of a text in pieces, once each, sorted."""
    return np.unique(np.concatenate([_of_piece(view)[0] for view in views]))


def _of_piece(view: Text) -> tuple[Hashes, Places]:
    """Hashes and numbers of the lines that count, in their order."""
    long = view.lines.lengths >= LEAST_CHARACTERS
    return view.lines.hashes[long], view.lines.numbers[long]


def common_lines(
    records: Records, paths: Sequence[Path], kept: NDArray[np.bool_], documents: int, memory: int = 2**30
) -> Hashes:
    """Sorted hashes of the lines that occur in at least ``documents`` of the kept documents.

    ``paths`` hold the line hashes of each unit's documents, one document's after the other's.
    """
    total = sum(path.stat().st_size for path in paths) // 8
    parts = max(1, -(-total * _BYTES // max(memory, 1)))
    found = []
    for part in range(parts):
        low, high = part * 2**64 // parts, (part + 1) * 2**64 // parts - 1
        chunks = [
            hashes[(hashes >= np.uint64(low)) & (hashes <= np.uint64(high))]
            for hashes in _kept_lines(records, paths, kept)
        ]
        values, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *chunks]), return_counts=True)
        found.append(values[counts >= documents])
    return np.concatenate(found)


def _kept_lines(records: Records, paths: Sequence[Path], kept: NDArray[np.bool_]) -> Iterator[Hashes]:
    counts = [table["lines"] for _, table in records.slices(["lines"])]
    lengths = np.concatenate(counts or [np.zeros(0, np.uint32)]).astype(np.int64)
    for path, first, last in zip(paths, records.starts[:-1], records.starts[1:], strict=True):
        mine = np.repeat(kept[first:last], lengths[first:last])
        with path.open("rb") as stream:
            start = 0
            while data := stream.read(8 * _SLICE):
                hashes = np.frombuffer(data, dtype="<u8")
                yield hashes[mine[start : start + len(hashes)]]
                start += len(hashes)


def without_lines(text: str, common: Hashes) -> tuple[str, int]:
    """``text`` without its lines that are among the sorted hashes ``common``, and how many lines that takes away."""
    kept, gone = [], 0
    for piece in pieces(text):
        hashes, numbers = _of_piece(Text(piece))
        listed = numbers[among(hashes, common)]
        gone += len(listed)
        lines = piece.split("\n")
        if len(listed):
            out = set(listed.tolist())
            lines = [line for number, line in enumerate(lines) if number not in out]
        kept.append("\n".join(lines))
    return ("".join(kept).strip("\n") if gone else text), gone


def among(hashes: Hashes, ordered: Hashes) -> NDArray[np.bool_]:
    """Which of ``hashes`` are in the sorted ``ordered``."""
    if not len(ordered):
        return np.zeros(len(hashes), dtype=bool)
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    found: NDArray[np.bool_] = ordered[places] == hashes
    return found
