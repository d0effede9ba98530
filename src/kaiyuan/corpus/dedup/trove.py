"""Whom to compare, found on a cluster by datatrove's stages of MinHash deduplication.

datatrove keeps the first of a cluster that it finds, in the order of files, and takes agreement on one band for a
duplicate. Here its second stage does what needs many machines, sorting and merging the bands; who is really similar,
and who stays, is decided as on one machine (``choice``), from the same groups, so the outcome is the same to the last
document.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaiyuan.corpus.cleaning import CleaningUnit, CleanStore
from kaiyuan.corpus.cluster import executor
from kaiyuan.corpus.dedup.records import Records
from kaiyuan.corpus.text import Places
from kaiyuan.errors import KaiyuanError
from kaiyuan.files import atomic_folder, fingerprint

_BITS_LESS = np.uint64(3)
"""datatrove reads hashes below 2^61 - 1 only."""
_PAIR = np.dtype([("file", "<u4"), ("document", "<u4"), ("other_file", "<u4"), ("other", "<u4")])


def groups_on_cluster(store: CleanStore, units: Sequence[CleaningUnit], kind: str, **options: Any) -> Iterator[Places]:
    """Groups of records that share a band, as ``groups.same_band`` gives them, over all records.

    Each band is a task. Slurm works in its own time: there a ``KaiyuanError`` says to come again.
    """
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets
    from datatrove.utils.hashing import HashConfig

    records = store.records(units)
    bands = records.type["bands"].shape[0]
    folder = store.folder / "minhash" / fingerprint([unit.key for unit in units])
    if not (folder / "signatures").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder / "signatures") as temporary:
            _write_signatures(records, temporary)
    config = MinhashConfig(num_buckets=bands, hashes_per_bucket=1, hash_config=HashConfig(precision=64))
    step = MinhashDedupBuckets(str(folder / "signatures"), str(folder / "pairs"), config=config, lines_to_buffer=4096)
    if _unfinished(folder, bands):
        executor(kind, step, tasks=bands, folder=folder, **options).run()
    if _unfinished(folder, bands):
        raise KaiyuanError(f"{folder}: the bands are with the {kind} tasks or have failed (see {folder / 'logs'}); "
                           "run the same command again when they have ended")  # fmt: skip
    return _groups(records, sorted((folder / "pairs").glob("*.dups")))


def _write_signatures(records: Records, folder: Path) -> None:
    """Each unit's bands in datatrove's form: a file a band, hash and number of the document, sorted by the hash."""
    bands = records.type["bands"].shape[0]
    row = np.dtype([("hash", "<u8"), ("document", "<u4")])
    for band in range(bands):
        (folder / f"bucket_{band:03d}").mkdir()
    for number, path in enumerate(records.paths):
        table = np.fromfile(path, dtype=records.type)["bands"]
        for band in range(bands):
            order = np.argsort(table[:, band], kind="stable")
            rows = np.empty(len(order), dtype=row)
            rows["hash"], rows["document"] = table[order, band] >> _BITS_LESS, order
            (folder / f"bucket_{band:03d}" / f"{number:05d}.minhash.sig").write_bytes(rows.tobytes())


def _unfinished(folder: Path, bands: int) -> bool:
    """Whether a band's task has not completed: datatrove marks each one that has."""
    marked = {path.name for path in (folder / "logs").glob("*/completions/*")}
    return len(marked) < bands


def _groups(records: Records, paths: Sequence[Path]) -> Iterator[Places]:
    """datatrove's pairs link each document with the next of the same hash; a chain of them is a group."""
    for path in paths:
        pairs = np.fromfile(path, dtype=_PAIR)
        left = records.starts[pairs["file"]] + pairs["document"]
        right = records.starts[pairs["other_file"]] + pairs["other"]
        first = np.flatnonzero(np.concatenate(([True], left[1:] != right[:-1]))) if len(pairs) else np.zeros(0, int)
        for start, stop in zip(first, np.append(first[1:], len(pairs)), strict=True):
            yield np.concatenate((left[start : start + 1], right[start:stop]))[None, :]
