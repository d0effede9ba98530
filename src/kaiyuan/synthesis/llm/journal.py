"""The journal: every answer that was paid for, on disk before it is used. It is the cache as well.

One JSON record a line, only ever appended to. A kill in the middle of a write leaves a torn tail, which is recognised
and cut off when the journal is opened again. Memory holds a hash and an offset per record; answers are read when asked
for. Answers that arrive together are synced together, so the disk does not set the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kaiyuan.errors import DataError, KaiyuanError
from kaiyuan.progress import say

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "text": str,
    "finish": str,
    "model": str,
    "in": int,
    "out": int,
    "seconds": (int, float),
}
Place = tuple[int, int]


class Journal:
    """Answers by key. One process at a time: a second one is refused with ``KaiyuanError``."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.fsyncs = 0
        self._lock = _locked(path.with_name(path.name + ".lock"))
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._places, end, damaged = _scan(path)
            _cut(self._file, path, end)
            _sync_folder(path.parent)
        except BaseException:
            os.close(self._lock)
            raise
        if damaged:
            say(f"{path}: {damaged} damaged lines are skipped; what they held is asked for again")
        self._end = end
        self._pending: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._broken: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of ``key``, ``None`` if there is none."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        record = _parsed(os.pread(self._file, place[1], place[0]))
        if record is None or record["key"] != key:
            raise DataError(f"{self.path}: changed under the run at byte {place[0]}; stop whatever else writes to it")
        return record

    async def append(self, record: dict[str, Any]) -> None:
        """Return when ``record`` is safely on disk. A cancelled caller's record is written all the same."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((record, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._drain())
        await asyncio.shield(done)

    async def flush(self) -> None:
        """Wait for everything that was handed to ``append``."""
        while self._writer is not None and not self._writer.done():
            await asyncio.shield(self._writer)

    async def _drain(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            lines = [(record["key"], _line(record)) for record, _ in batch]
            error = await asyncio.to_thread(self._write, b"".join(line for _, line in lines))
            for key, line in lines if error is None else ():
                self._places[bytes.fromhex(key)] = (self._end, len(line))
                self._end += len(line)
            for _, done in batch:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)

    def _write(self, content: bytes) -> KaiyuanError | None:
        """Append and sync. After a failure nothing is written any more: what is on disk then is anyone's guess."""
        try:
            if self._broken:
                raise self._broken
            view = memoryview(content)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
            self.fsyncs += 1
        except OSError as error:
            self._broken = error
            return KaiyuanError(f"{self.path}: cannot be written ({error.strerror}); mend that and run again to go on")
        return None

    def close(self) -> None:
        for descriptor in (self._file, self._lock):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record of a line, ``None`` if the line is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
        whole = (
            all(isinstance(record[name], kind) for name, kind in _FIELDS.items())
            and len(bytes.fromhex(record["key"])) == 32
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if whole else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, line
            offset += len(line)


def _scan(path: Path) -> tuple[dict[bytes, Place], int, int]:
    """Places of the records, where the last good one ends, and how many damaged lines lie before that."""
    places: dict[bytes, Place] = {}
    end = damaged = bad = 0
    for offset, line in _lines(path):
        record = _parsed(line)
        if record is None:
            bad += 1
            continue
        places[bytes.fromhex(record["key"])] = (offset, len(line))
        end, damaged = offset + len(line), bad
    return places, end, damaged


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal in order, whole ones only; for reading beside a run."""
    for _, line in _lines(path):
        if (record := _parsed(line)) is not None:
            yield record


def _cut(file: int, path: Path, end: int) -> None:
    torn = os.fstat(file).st_size - end
    if torn > 0:
        say(f"{path}: the last {torn} bytes are a torn write; cut off")
        os.ftruncate(file, end)
        os.fsync(file)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock; the kernel frees it when the process ends, however it ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "?"
        os.close(lock)
        raise KaiyuanError(
            f"{path.parent}: another run (process {holder}) is at work here; wait for it or use another --out"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
