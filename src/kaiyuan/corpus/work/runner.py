"""Units done by processes of this machine. The result depends on the units alone, not on who has done which."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, cast

from kaiyuan.corpus.work.store import Counts, Step, Store, Totals
from kaiyuan.corpus.work.units import Unit
from kaiyuan.errors import DataError, KaiyuanError
from kaiyuan.progress import Progress, quantity, say, size


def run_units(
    units: Sequence[Unit], store: Store, *, workers: int = 1, step: Step | None = None, label: str = "sources"
) -> Totals:
    """Do every unit that is not done, with ``workers`` processes; returns the counts of all that are needed.

    ``step`` follows the readers within each unit; it must be picklable, and its fingerprint part of the units' keys.
    Raises ``DataError`` as soon as more than the allowed share of a source is damaged.
    """
    live = _Live(units, store)
    if live.todo:
        # Without a total in bytes (datasets of the hub do not say) progress is counted in units.
        kind = ("document" if label != "sources" else "B") if live.in_bytes else "unit"
        with Progress(label, live.total, kind, done=live.finished) as progress:
            live.progress = progress
            with _workers(min(workers, len(live.todo)), store, step) as team:
                team.run(live.next, live.tick, live.done)
    totals = _final(units, store)
    if label == "sources":
        say(summary(totals))
    return totals


def _final(units: Sequence[Unit], store: Store) -> Totals:
    """Counts of what the documents are taken from; a source's limit cuts the number of its documents."""
    totals = Totals({unit.origin: unit.source for unit in units})
    for unit, counts in store.needed(units):
        assert counts is not None
        totals.add(unit.origin, counts)
    for origin, counts in totals.counts.items():
        if limit := totals.sources[origin].limit:
            counts.documents = min(counts.documents, limit)
    return totals


def summary(totals: Totals) -> str:
    counts = totals.total()
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.kinds.most_common(5))
    why = f" ({kinds})" if kinds else ""
    return (
        f"sources: {counts.documents:,} documents ({quantity(counts.bytes)}B), {counts.dead:,} dead records, "
        f"{counts.skipped:,} left out{why}"
    )


class _Live:
    """What is to do, what has been done, and what is being done."""

    def __init__(self, units: Sequence[Unit], store: Store) -> None:
        self.units, self.store = units, store
        self.totals = Totals({unit.origin: unit.source for unit in units})
        self.running: dict[int, Counts] = {}
        self.prefix = _Prefix(units)
        self.in_bytes = all(unit.size for unit in units)
        self.todo: list[Unit] = []
        self.finished = self.total = 0
        self.progress: Progress | None = None
        for unit, counts in store.needed(units):
            self.total += self._weight(unit)
            if counts is None:
                self.todo.append(unit)
            else:
                self.finished += self._weight(unit)
                self.prefix.add(unit, counts)
                self.totals.add(unit.origin, counts)
        self.waiting = iter(self.todo)

    def _weight(self, unit: Unit) -> int:
        return unit.size if self.in_bytes else 1

    def next(self) -> Unit | None:
        """The next unit to do; those behind a filled limit are passed over."""
        for unit in self.waiting:
            if not self.prefix.filled(unit.origin):
                return unit
            self._show(self._weight(unit))
        return None

    def tick(self, unit: Unit, counts: Counts) -> None:
        self.running[unit.number] = counts
        running = Counts()
        for number, part in self.running.items():
            if self.units[number].origin == unit.origin:
                running.add(part)
        self.totals.check(unit.origin, running)
        self._show(0)

    def done(self, unit: Unit, counts: Counts) -> None:
        self.running.pop(unit.number, None)
        self.prefix.add(unit, counts)
        self.totals.add(unit.origin, counts)
        self._show(self._weight(unit))

    def _show(self, amount: int) -> None:
        if self.progress is not None:
            counts = self.totals.total()
            for part in self.running.values():
                counts.add(part)
            numbers = {"documents": f"{counts.documents:,}", "text": size(counts.bytes), "dead": f"{counts.dead:,}"}
            self.progress.update(amount, **numbers)


class _Prefix:
    """For sources with a limit: how many documents the units give that are done without a gap before them."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.order: dict[int, list[int]] = {}
        self.limits = {unit.origin: unit.source.limit for unit in units if unit.source.limit}
        for unit in units:
            if unit.origin in self.limits:
                self.order.setdefault(unit.origin, []).append(unit.number)
        self.known: dict[int, int] = {}

    def add(self, unit: Unit, counts: Counts) -> None:
        self.known[unit.number] = counts.documents

    def filled(self, origin: int) -> bool:
        if origin not in self.limits:
            return False
        have = 0
        for number in self.order[origin]:
            if number not in self.known:
                break
            have += self.known[number]
        return have >= self.limits[origin]


Next = Callable[[], Unit | None]
Report = Callable[[Unit, Counts], None]


def _workers(count: int, store: Store, step: Step | None) -> _Team | _Alone:
    return _Team(count, store, step) if count > 1 else _Alone(store, step)


class _Alone:
    """This process as the only worker."""

    def __init__(self, store: Store, step: Step | None) -> None:
        self.store, self.step = store, step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, next_unit: Next, tick: Report, done: Report) -> None:
        while unit := next_unit():
            done(unit, self.store.write(unit, self.step, lambda counts, unit=unit: tick(unit, counts)))  # type: ignore[misc]


class _Team:
    """Worker processes, each on a pipe of its own: whoever dies is noticed, and nobody outlives this process."""

    def __init__(self, count: int, store: Store, step: Step | None) -> None:
        # Not fork: the process may have threads running, torch's for instance, whose locks a child would inherit.
        context = multiprocessing.get_context("spawn")
        self.busy: dict[Connection, Unit] = {}
        self.processes: dict[Connection, Any] = {}
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, store, step), daemon=True)
            process.start()
            theirs.close()
            self.processes[ours] = process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection, process in self.processes.items():
            connection.close()
            if kind is not None:
                process.terminate()
            process.join()

    def run(self, next_unit: Next, tick: Report, done: Report) -> None:
        for connection in self.processes:
            self._give(connection, next_unit())
        while self.busy:
            for connection in cast(list[Connection], wait(list(self.busy))):
                what, value = self._message(connection)
                if what == "tick":
                    tick(self.busy[connection], value)
                elif what == "done":
                    done(self.busy.pop(connection), value)
                    self._give(connection, next_unit())
                else:
                    raise KaiyuanError(value)

    def _give(self, connection: Connection, unit: Unit | None) -> None:
        if unit is not None:
            connection.send(unit)
            self.busy[connection] = unit

    def _message(self, connection: Connection) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = connection.recv()
        except (EOFError, ConnectionResetError):
            process, unit = self.processes[connection], self.busy[connection]
            process.join()
            raise DataError(
                f"a worker was killed (exit code {process.exitcode}) at {unit.source.name}, {unit.parts[0].name}; run "
                "again to go on, with fewer workers if memory was short"
            ) from None
        return message


def _work(connection: Connection, store: Store, step: Step | None) -> None:
    """A worker's life: units until its pipe is closed, which it also is when the process at the other end dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for unit in _received(connection):
            counts = store.write(unit, step, lambda counts: connection.send(("tick", counts)))
            connection.send(("done", counts))
    except (BrokenPipeError, ConnectionResetError):
        return
    except KaiyuanError as error:
        connection.send(("error", str(error)))
    except Exception:
        connection.send(("error", f"a worker has failed:\n{traceback.format_exc()}"))


def _received(connection: Connection) -> Iterator[Unit]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return
