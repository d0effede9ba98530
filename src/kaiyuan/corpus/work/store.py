"""Where finished units lie: a shard of documents, dead records, and a marker with counts that is written last."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from kaiyuan.corpus.sources.document import Dead, Document, Item
from kaiyuan.corpus.sources.jsonl import parser
from kaiyuan.corpus.sources.reading import read_part
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.corpus.sources.streams import open_stream
from kaiyuan.corpus.work.units import Unit
from kaiyuan.errors import DataError
from kaiyuan.files import sync, temporary_beside, write_json

FEWEST_DEAD = 100
"""So many damaged records never stop a run, whatever their share."""
_TICK = 0.5
_LEVEL = 1
"""Of zstd: a fifth more disk than its default for a quarter more speed of the whole way."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)

Step = Callable[[Iterator[Item]], Iterable[Item]]
"""What follows reading, unit by unit: cleaning for instance. Gets items and gives items."""


@dataclass
class Counts:
    """What became of the records of a unit, or of many."""

    documents: int = 0
    bytes: int = 0
    """Of documents as lines of JSON."""
    dead: int = 0
    skipped: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    example: str = ""
    """Place and reason of the first damaged record."""

    def add(self, other: Counts) -> None:
        self.documents += other.documents
        self.bytes += other.bytes
        self.dead += other.dead
        self.skipped += other.skipped
        self.kinds += other.kinds
        self.example = self.example or other.example

    def add_dead(self, item: Dead) -> None:
        self.kinds[item.kind] += 1
        if item.skipped:
            self.skipped += 1
        else:
            self.dead += 1
            self.example = self.example or f"{item.place}: {item.reason}"

    def report(self) -> dict[str, Any]:
        values = {**asdict(self), "kinds": dict(self.kinds.most_common())}
        return {name: value for name, value in values.items() if value not in ("", {})}


class Totals:
    """Counts by source, and the check that stops a run whose settings must be wrong."""

    def __init__(self, sources: dict[int, Source]) -> None:
        self.sources = sources
        self.counts = {origin: Counts() for origin in sources}

    def add(self, origin: int, counts: Counts) -> None:
        self.counts[origin].add(counts)
        self.check(origin)

    def check(self, origin: int, running: Counts | None = None) -> None:
        """``DataError`` if more than the allowed share of a source is damaged, ``running`` units included."""
        counts, source = Counts(), self.sources[origin]
        for part in (self.counts[origin], running):
            if part is not None:
                counts.add(part)
        records = counts.documents + counts.dead
        if counts.dead > FEWEST_DEAD and counts.dead > source.max_dead_share * records:
            raise DataError(
                f"source {source.path}: {counts.dead:,} of {records:,} records ({counts.dead / records:.0%}) cannot be "
                f"read, first {counts.example[:300]}; mend its settings, or raise max_dead_share "
                f"({source.max_dead_share:g})"
            )

    def total(self) -> Counts:
        whole = Counts()
        for counts in self.counts.values():
            whole.add(counts)
        return whole


class Store:
    """A folder of finished units. Any number of processes and machines may write into it at the same time."""

    def __init__(self, folder: Path, compress: bool | None = None) -> None:
        self.folder = folder
        self.ending = ".zst" if (_has_zstd() if compress is None else compress) else ""

    def _path(self, key: str, ending: str) -> Path:
        return self.folder / key[:2] / f"{key}{ending}"

    def done(self, key: str) -> Counts | None:
        """What the unit has given, or None if it has not been done or its files are not as they were written."""
        try:
            mark = json.loads(self._path(key, ".json").read_bytes())
            if any((self.folder / key[:2] / name).stat().st_size != size for name, size in mark["files"].items()):
                return None
        except (FileNotFoundError, ValueError):
            return None
        return Counts(**{**mark["counts"], "kinds": Counter(mark["counts"].get("kinds", {}))})

    def write(self, unit: Unit, step: Step | None = None, tick: Callable[[Counts], None] | None = None) -> Counts:
        """Read a unit and store what it gives. ``tick`` gets its counts so far, twice a second."""
        folder = self._path(unit.key, "").parent
        folder.mkdir(parents=True, exist_ok=True)
        counts, names = Counts(), (f"{unit.key}.jsonl{self.ending}", f"{unit.key}.dead.jsonl")
        with Files(folder, names, bool(self.ending)) as pair:
            shown = time.monotonic()
            for item in _items(unit, step):
                if isinstance(item, Document):
                    counts.documents += 1
                    counts.bytes += pair.write(0, item.row())
                else:
                    counts.add_dead(item)
                    pair.write(1, item.row())
                if tick is not None and time.monotonic() - shown >= _TICK:
                    shown = time.monotonic()
                    tick(counts)
            sizes = pair.finish()
        mark = {"files": sizes, "counts": counts.report()}
        write_json(folder / f"{unit.key}.json", mark)
        return counts

    def lines(self, key: str) -> Iterator[bytes]:
        """Documents of a finished unit, as lines of JSON."""
        for ending in ("", ".zst"):
            path = self._path(key, f".jsonl{ending}")
            if path.exists():
                with open_stream(path) as stream:
                    yield from stream
                return
        raise DataError(f"{self.folder}: unit {key} is gone; run again")

    def rows(self, unit: Unit) -> Iterator[dict[str, Any]]:
        """Documents of a finished unit, as rows."""
        return map(parser(), self.lines(unit.key))

    def documents_from(self, key: str, first: int) -> Iterator[Document]:
        """The documents of a finished unit, without the first ``first`` ones."""
        parse = parser()
        return (Document(**parse(line)) for line in islice(self.lines(key), first, None))

    def dead(self, unit: Unit) -> Iterator[bytes]:
        """Lines of JSON about the dead records of a finished unit."""
        path = self._path(unit.key, ".dead.jsonl")
        if path.exists():
            with path.open("rb") as stream:
                yield from stream

    def needed(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Counts | None]]:
        """The units whose documents are wanted, in order, with their counts if they are done.

        Units behind those that fill their source's ``limit`` are left out; which these are does not depend on the
        order in which units were done, for a unit counts only when all before it are done.
        """
        have: Counter[int] = Counter()
        open_: set[int] = set()
        for unit in units:
            limit = unit.source.limit
            if limit and unit.origin not in open_ and have[unit.origin] >= limit:
                continue
            counts = self.done(unit.key)
            if counts is None:
                open_.add(unit.origin)
            else:
                have[unit.origin] += counts.documents
            yield unit, counts

    def documents(self, units: Sequence[Unit]) -> Iterator[Document]:
        """The documents of finished units in their order, cut off at each source's ``limit``."""
        given: Counter[int] = Counter()
        for unit in self._finished(units):
            limit = unit.source.limit
            rows = islice(self.rows(unit), limit - given[unit.origin]) if limit else self.rows(unit)
            for row in rows:
                given[unit.origin] += 1
                yield Document(**row)

    def write_dead(self, units: Sequence[Unit], path: Path) -> int:
        """All dead records of finished units, in their order, into one file; returns how many lines it has."""
        count = 0
        with Files(path.parent, (path.name,), False) as pair:
            for unit in self._finished(units):
                for line in self.dead(unit):
                    pair.streams[0].write(line)
                    count += 1
            pair.finish(keep_empty=True)
        return count

    def _finished(self, units: Sequence[Unit]) -> Iterator[Unit]:
        for unit, counts in self.needed(units):
            if counts is None:
                raise DataError(f"{self.folder}: unit {unit.key} ({unit.parts[0].name}) is not done yet; run again")
            yield unit

    def prune(self, units: Sequence[Unit]) -> int:
        """Remove what belongs to none of ``units``, and what killed processes have left; returns how many files.

        Only when nobody is writing: after a run, before the next.
        """
        keys, removed = {unit.key for unit in units}, 0
        for path in self.folder.glob("??/*"):
            if path.name.split(".")[0] not in keys or path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def _items(unit: Unit, step: Step | None) -> Iterator[Item]:
    """What a unit gives, up to its source's limit of documents."""
    items: Iterator[Item] = (item for part in unit.parts for item in read_part(part, unit.source))
    count = 0
    for item in items if step is None else step(items):
        yield item
        count += isinstance(item, Document)
        if unit.source.limit and count >= unit.source.limit:
            return


class Files:
    """Files written side by side under names that no other process uses; ``finish`` gives them their own.

    The first is compressed if ``compress`` says so.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], compress: bool) -> None:
        self.targets = [folder / name for name in names]
        self.paths = [temporary_beside(target) for target in self.targets]
        self.stack = contextlib.ExitStack()
        self.streams: list[BinaryIO] = []
        self.compress = compress

    def __enter__(self) -> Files:
        for number, path in enumerate(self.paths):
            file = self.stack.enter_context(path.open("wb"))
            packed = self.compress and number == 0
            self.streams.append(self.stack.enter_context(_packed(file)) if packed else cast(BinaryIO, file))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()
        for path in self.paths:
            path.unlink(missing_ok=True)

    def write(self, number: int, row: dict[str, Any]) -> int:
        line = (_ENCODER.encode(row) + "\n").encode("utf-8", "backslashreplace")
        self.streams[number].write(line)
        return len(line)

    def finish(self, keep_empty: bool = False) -> dict[str, int]:
        """Everything to disk and in place; an empty file of dead records is left out. Returns names and sizes."""
        self.stack.close()
        sizes = {}
        for number, (path, target) in enumerate(zip(self.paths, self.targets, strict=True)):
            size = path.stat().st_size
            if size or number == 0 or keep_empty:
                sync(path)
                path.replace(target)
                sizes[target.name] = size
        return sizes


def _packed(file: BinaryIO) -> Any:
    import zstandard

    return io.BufferedWriter(zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file, closefd=False), 2**20)


def _has_zstd() -> bool:
    from importlib.util import find_spec

    return find_spec("zstandard") is not None
