"""Files inside of .tar(.gz) and .zip archives, read one by one and never unpacked to disk.

An archive is somebody else's: names that climb out, links, devices, and contents that grow beyond all measure are
refused before anything is read of them.
"""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MAX_MEMBERS = 1_000_000
MAX_RATIO = 100
"""Times that an archive may grow when it is unpacked, once it is past ``MIN_BUDGET``."""
MIN_BUDGET = 2**30
_PIECE = 2**20
_LONGEST_READ = 2**24
"""Bytes that the reader of .tar may ask for at once: its extended headers could claim any length."""


class Refused(Exception):
    """An archive that is damaged or must not be read any further: (kind, detail)."""


@dataclass(frozen=True)
class Member:
    """A file of an archive; ``refusal`` says why it must not be read."""

    name: str
    size: int
    read: Callable[[], bytes]
    refusal: str = ""


def budget_of(packed: int) -> int:
    """Bytes that an archive of ``packed`` bytes may hold."""
    return max(MIN_BUDGET, MAX_RATIO * packed)


def members(path: Path) -> Iterator[Member]:
    """Every file of an archive in its own order; ``read`` a member before asking for the next one."""
    budget = budget_of(path.stat().st_size)
    try:
        yield from _zip(path, budget) if zipfile.is_zipfile(path) else _tar(path, budget)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise Refused("damaged file", f"archive: {error}") from None
    except (NotImplementedError, RuntimeError) as error:
        raise Refused("cannot be unpacked", str(error)) from None


def refusal_of(name: str) -> str:
    """Why a member's name is refused, or ""."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        return "path that leads out of the archive"
    return ""


def _zip(path: Path, budget: int) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check(len(entries), sum(entry.file_size for entry in entries), budget)
        for entry in entries:
            refusal = refusal_of(entry.orig_filename) or refusal_of(entry.filename)
            if stat.S_ISLNK(entry.external_attr >> 16):
                refusal = "link"
            elif entry.flag_bits & 1:
                refusal = "encrypted"
            # Sizes in the directory may lie; the reader of a member never gives more than its entry claims.
            yield Member(entry.filename, entry.file_size, lambda entry=entry: archive.read(entry), refusal)  # type: ignore[misc]


def _tar(path: Path, budget: int) -> Iterator[Member]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = Guarded(gzip.GzipFile(fileobj=file) if packed else file, budget)
        count = 0
        with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
            for entry in archive:
                count += 1
                _check(count, 0, budget)
                archive.members = []
                if entry.isdir():
                    continue
                refusal = refusal_of(entry.name) or ("" if entry.isreg() else "link or device")
                yield Member(entry.name, entry.size, lambda entry=entry: _whole(archive, entry), refusal)  # type: ignore[misc]


def _whole(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(entry)
    assert stream is not None
    data = b"".join(iter(lambda: stream.read(_PIECE), b""))
    if len(data) < entry.size:
        raise EOFError("it ends in the middle of a file")
    return data


def _check(count: int, size: int, budget: int) -> None:
    if count > MAX_MEMBERS:
        raise Refused("archive bomb", f"more than {MAX_MEMBERS:,} files")
    if size > budget:
        raise Refused("archive bomb", f"more than {budget:,} bytes when unpacked")


class Guarded:
    """A stream that only goes forward and counts what it has unpacked, so that no member can hide a bomb."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, budget: int) -> None:
        self.stream: Any = stream
        self.budget = budget
        self.position = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise Refused("archive bomb", f"a piece of {size:,} bytes")
        data: bytes = self.stream.read(size)
        self.position += len(data)
        _check(0, self.position, self.budget)
        return data

    def seek(self, position: int) -> int:
        if position < self.position:
            raise Refused("damaged file", "archive: its parts overlap")
        while self.position < position:
            if not self.read(min(_PIECE, position - self.position)):
                break
        return self.position

    def tell(self) -> int:
        return self.position
