"""The same units of work under datatrove's executors: processes of one machine, Slurm, Ray.

datatrove deals out files by the rank of a task, and remembers which ranks are done; start it again with another number
of tasks and work is lost or done twice. Here what is done is remembered by unit, so tasks may come and go. This module
needs datatrove and is imported by those who ask for a cluster only.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources.document import Document
from kaiyuan.corpus.work import Counts, Store, Totals, Unit
from kaiyuan.corpus.work.store import Step
from kaiyuan.errors import ConfigError, KaiyuanError
from kaiyuan.files import fingerprint

try:
    from datatrove.data import Document as TroveDocument
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    raise KaiyuanError("running on a cluster needs datatrove: pip install 'kaiyuan[cluster]'") from None

EXECUTORS = ("local", "slurm", "ray")
_NEEDED = {"slurm": ("time", "partition")}


class UnitStep(PipelineStep):
    """A step of datatrove's that does the units whose turn it is; with ``emit`` it also hands on their documents.

    Every task works out the same shares from the same list, so a unit belongs to one of them. Units that are done by
    the time the step is made are dealt out only where their documents are wanted. A source's ``limit`` holds for every
    unit by itself in what is handed on.
    """

    name = "kaiyuan units"
    type = "READER"

    def __init__(
        self, units: Sequence[Unit], store: Path | Store, *, step: Step | None = None, emit: bool = False
    ) -> None:
        super().__init__()
        self.store = Store(store.resolve()) if isinstance(store, Path) else store
        self.step, self.emit = step, emit
        self.units = [unit for unit, counts in self.store.needed(units) if emit or counts is None]

    def share(self, rank: int, world_size: int) -> list[Unit]:
        """The units of one task, in order: the largest go first, each to the task with the least to do so far."""
        loads = [(0, task) for task in range(world_size)]
        mine: list[Unit] = []
        for unit in sorted(self.units, key=lambda unit: (-unit.size, unit.number)):
            load, task = heapq.heappop(loads)
            heapq.heappush(loads, (load + max(unit.size, 1), task))
            if task == rank:
                mine.append(unit)
        return sorted(mine, key=lambda unit: unit.number)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """datatrove's entry point: ``data`` of an earlier step is handed on, then come this task's documents."""
        if data:
            yield from data
        totals = Totals({unit.origin: unit.source for unit in self.units})
        for unit in self.share(rank, world_size):
            counts = self.store.done(unit.key)
            if counts is None:
                with self.track_time("unit"):
                    counts = self.store.write(unit, self.step)
            self._count(counts)
            totals.add(unit.origin, counts)
            if self.emit:
                yield from (_trove(Document(**row)) for row in self.store.rows(unit))

    def _count(self, counts: Counts) -> None:
        for name in ("documents", "dead", "skipped"):
            self.stat_update(name, value=getattr(counts, name), unit="unit")


def _trove(document: Document) -> TroveDocument:
    """As datatrove's own steps want it: everything but text and id is metadata."""
    row = document.row()
    return TroveDocument(text=row.pop("text"), id=row.pop("id"), metadata=row)


def executor(kind: str, step: PipelineStep, *, tasks: int, folder: Path, **options: Any) -> Any:
    """An executor of datatrove's for ``step`` with ``tasks`` tasks; call its ``run()``.

    ``options`` go to the executor as they are (``workers``, ``time``, ``partition``, ``mem_per_cpu_gb``, ...). Its logs
    lie below ``folder``, in a folder of their own for every number of tasks and list of units: what datatrove marks as
    completed there holds for no other.
    """
    if kind not in EXECUTORS:
        raise ConfigError(f"cluster: {kind!r} is no executor; write one of {', '.join(EXECUTORS)}")
    if missing := [name for name in _NEEDED.get(kind, ()) if name not in options]:
        raise ConfigError(f"cluster: {kind} needs {' and '.join(missing)} too")
    if kind == "local":  # datatrove would start a process for every task at once
        options = {"workers": min(tasks, os.cpu_count() or 1), **options}
    made_for = fingerprint([tasks, [unit.key for unit in getattr(step, "units", ())]])
    try:
        return _class(kind)(pipeline=[step], tasks=tasks, logging_dir=str(folder / "logs" / made_for), **options)
    except TypeError as error:
        raise ConfigError(f"cluster: {kind} does not take these options: {error}") from None


def _class(kind: str) -> Any:
    try:
        if kind == "slurm":
            from datatrove.executor.slurm import SlurmPipelineExecutor

            return SlurmPipelineExecutor
        if kind == "ray":
            from datatrove.executor.ray import RayPipelineExecutor

            return RayPipelineExecutor
    except ImportError as error:
        raise KaiyuanError(f"cluster: {kind} cannot be used: {error}") from None
    from datatrove.executor.local import LocalPipelineExecutor

    return LocalPipelineExecutor


def run_on_cluster(
    units: Sequence[Unit], store: Path | Store, kind: str, *, tasks: int, step: Step | None = None, **options: Any
) -> None:
    """Do what is not done of ``units``; returns when all of it is done. ``store`` may be no more than its folder.

    Slurm runs jobs in its own time: there a ``KaiyuanError`` says that they are on their way, and to come again.
    """
    todo = UnitStep(units, store, step=step)
    if not todo.units:
        return
    folder = todo.store.folder
    executor(kind, todo, tasks=min(tasks, len(todo.units)), folder=folder, **options).run()
    left = sum(counts is None for _, counts in todo.store.needed(units))
    if left:
        raise KaiyuanError(
            f"{folder}: {left:,} of {len(units):,} units are with the {kind} tasks or have failed (see "
            f"{folder / 'logs'}); run the same command again when they have ended"
        )
