"""Sources cut into units of work, each with a stable key."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from kaiyuan.corpus.sources.demo import located
from kaiyuan.corpus.sources.parts import Found, Part
from kaiyuan.corpus.sources.reading import find_parts
from kaiyuan.corpus.sources.spec import Format, Source
from kaiyuan.errors import DataError
from kaiyuan.files import fingerprint, sha256_of

VERSION = 1
"""Of what readers make of their input; a change here makes every unit due again."""
UNIT_BYTES = 128 * 2**20
MAX_FILES = 4096
_CUT = 256
"""One file in so many, chosen by its name, begins a new unit: a file that is added moves the borders near it only."""


@dataclass(frozen=True)
class Unit:
    """Files, or a range of a large one, that are read together and written as one shard."""

    number: int
    key: str
    """Hash of names, sizes, states (time of change or content) and ranges of its parts, and of the settings."""
    origin: int
    """Which of the sources it belongs to, from 0."""
    source: Source
    """With name and format filled in."""
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of input, as stored."""
        return sum(part.size for part in self.parts)


def plan(sources: Sequence[Source], *, unit_bytes: int = UNIT_BYTES, step: str = "") -> list[Unit]:
    """The units of ``sources`` in the order of their documents; ``step`` is the fingerprint of what follows reading.

    ``unit_bytes`` decides about borders, so keep it from run to run. Raises ``DataError`` if a source has no files.
    """
    units: list[Unit] = []
    seen: dict[str, int] = {}
    for origin, source in enumerate(map(located, sources)):
        named = source if source.name else source.model_copy(update={"name": _name(source)})
        dataset = ""
        for found, parts in _groups(named, unit_bytes):
            read_as = named.model_copy(update={"format": found})
            if found == "hf":
                dataset = dataset or _dataset_state(read_as)
            key = _key(read_as, parts, step, dataset)
            # Two sources may hold copies of the same files; each keeps its place in the order.
            seen[key] = seen.get(key, 0) + 1
            unique = key if seen[key] == 1 else f"{key}-{seen[key]}"
            units.append(Unit(len(units), unique, origin, read_as, parts))
    return units


def _name(source: Source) -> str:
    """What documents carry as their source: the dataset's name, or that of the file or folder without ending."""
    if source.path.startswith("hf://"):
        return source.path.removeprefix("hf://")
    fixed = source.path.split("*")[0].split("?")[0].split("[")[0] if not Path(source.path).exists() else source.path
    path = Path(fixed) if fixed == source.path else Path(fixed.rpartition("/")[0] or ".")
    path = path.expanduser().resolve()
    return path.name if path.is_dir() else path.name.split(".")[0]


def _groups(source: Source, unit_bytes: int) -> Iterator[tuple[Format, tuple[Part, ...]]]:
    """Neighbouring small files together, large ones in ranges where their format can be entered in the middle."""
    group: list[Part] = []
    group_format: Format = "text"
    size = 0
    for part, found in _split(source, unit_bytes):
        full = size + part.size > unit_bytes or len(group) >= MAX_FILES or found != group_format
        if group and (full or part.stop is not None or zlib.crc32(part.name.encode()) % _CUT == 0):
            yield group_format, tuple(group)
            group, size = [], 0
        group.append(part)
        group_format, size = found, size + part.size
    if group:
        yield group_format, tuple(group)


def _split(source: Source, unit_bytes: int) -> Iterator[Found]:
    for part, found in find_parts(source):
        if part.size > unit_bytes and found == "jsonl" and part.path.suffix in (".jsonl", ".ndjson", ".json"):
            for start in range(0, part.size, unit_bytes):
                stop = min(start + unit_bytes, part.size)
                yield replace(part, size=stop - start, start=start, stop=stop), found
        elif part.size > unit_bytes and found == "parquet":
            yield from ((piece, found) for piece in _row_groups(part, unit_bytes))
        else:
            yield part, found


def _row_groups(part: Part, unit_bytes: int) -> Iterator[Part]:
    """Ranges of row groups of about ``unit_bytes``; the whole file if its footer cannot be read."""
    from kaiyuan.corpus.sources.parquet import errors, open_table

    try:
        with open_table(part.path) as table:
            groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
            sizes = [sum(group.column(n).total_compressed_size for n in range(group.num_columns)) for group in groups]
    except errors():
        yield part
        return
    start = size = 0
    for number, bytes_ in enumerate(sizes):
        if number > start and size + bytes_ > unit_bytes:
            yield replace(part, size=size, start=start, stop=number)
            start, size = number, 0
        size += bytes_
    yield replace(part, size=size, start=start, stop=len(sizes))


def _key(source: Source, parts: Sequence[Part], step: str, dataset: str) -> str:
    states = [
        [part.name, part.size, dataset or _state(part, source), part.start, part.stop, part.skip] for part in parts
    ]
    whole = fingerprint([VERSION, step, source.settings(), states])
    return whole + hashlib.sha256(repr(states).encode()).hexdigest()[:8]


def _state(part: Part, source: Source) -> str:
    if part.skip:
        return ""
    try:
        if source.identity == "content":
            return _content(part.path, part.path.stat().st_mtime_ns)
        return str(part.path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{part.path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=1)
def _content(path: Path, changed: int) -> str:
    """Hash of a file; the ranges of a large one ask for it one after the other."""
    return sha256_of(path)


def _dataset_state(source: Source) -> str:
    from kaiyuan.corpus.sources.hub import identity

    return identity(source)
