"""Compressed files as streams that notice when they were cut off, and lines of bounded length."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from kaiyuan.errors import DataError

COMPRESSED = (".gz", ".zst", ".xz")
LARGEST_WINDOW = 2**27
"""Bytes that zstd may look back, and so hold in memory: what its command line allows without --long."""
_CHUNK = 2**20


class Truncated(Exception):
    """A compressed stream that ends in the middle."""


def damage() -> tuple[type[Exception], ...]:
    """The errors of a stream that is damaged or cut off."""
    errors = (Truncated, EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)
    try:
        from zstandard import ZstdError
    except ImportError:
        return errors
    return (*errors, ZstdError)


def open_stream(path: Path) -> BinaryIO:
    """``path`` for reading, decompressed if its name ends in .gz, .zst or .xz."""
    if path.name.endswith(".xz"):
        return cast(BinaryIO, lzma.open(path, "rb"))
    if path.name.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.name.endswith(".zst"):
        return cast(BinaryIO, io.BufferedReader(ZstdStream(path), _CHUNK))
    return path.open("rb", buffering=_CHUNK)


class ZstdStream(io.RawIOBase):
    """The frames of a zstd file one after the other.

    The library's own reader gives a file that was cut off as if it were whole; here it raises ``Truncated``.
    """

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise DataError(f"{path}: reading .zst needs zstandard: pip install 'kaiyuan[corpus]'") from None
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        self.file = path.open("rb")
        self.frame: Any = None
        self.pending = b""
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            if not self._advance():
                return 0
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count

    def _advance(self) -> bool:
        data = self.pending or self.file.read(_CHUNK // 8)
        self.pending = b""
        if not data:
            if self.frame is not None:
                raise Truncated("the file ends inside of a compressed frame")
            return False
        if self.frame is None:
            self.frame = self.decompressor.decompressobj()
        self.ready = memoryview(self.frame.decompress(data))
        if self.frame.eof:
            self.pending, self.frame = self.frame.unused_data, None
        return True

    def close(self) -> None:
        self.file.close()
        super().close()


def lines(stream: BinaryIO, longest: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte offset, line) of every line that begins at ``start`` or after it and before ``stop``.

    A line of more than ``longest`` bytes comes as its first ``longest + 1`` bytes; the rest is read past.
    """
    offset = start
    if start:
        stream.seek(start - 1)
        offset += _rest_of_line(stream) - 1
    number = 0
    while stop is None or offset < stop:
        line = stream.readline(longest + 1)
        if not line:
            return
        number += 1
        yield number, offset, line
        offset += len(line)
        if len(line) > longest and not line.endswith(b"\n"):
            offset += _rest_of_line(stream)


def _rest_of_line(stream: BinaryIO) -> int:
    """Read past the end of the line; returns the number of bytes."""
    count = 0
    while piece := stream.readline(_CHUNK):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count
