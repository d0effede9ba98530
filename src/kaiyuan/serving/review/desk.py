"""What the page asks for: the next sample, a verdict, an undo, the report. A verdict is on disk before the reply."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from kaiyuan.curation.build import Selection
from kaiyuan.curation.log import UNDO, Decision, DecisionLog, now, standings
from kaiyuan.curation.places import CANDIDATES, DECISIONS
from kaiyuan.curation.review import VERSION, Plan, Task, next_task, report, tasks
from kaiyuan.curation.sample import read_samples
from kaiyuan.errors import KaiyuanError
from kaiyuan.serving.errors import ApiError

_OPEN_SECONDS = 900.0
"""How long a sample that somebody has open counts as being judged."""


class Desk:
    """One folder of curation under review. Calls may come from any thread."""

    def __init__(self, folder: Path, plan: Plan, selection: Selection | None = None) -> None:
        self.samples = list(read_samples(folder / CANDIDATES))
        if not self.samples:
            raise KaiyuanError(f"{folder / CANDIDATES}: has no samples to review")
        self.selection = selection or Selection()
        self.log = DecisionLog(folder / DECISIONS)
        self.known = standings(self.log.decisions)
        self.tasks = tasks(self.samples, self.known, plan)
        self._by_hash = {task.sample.hash: task for task in self.tasks}
        self._mutex = threading.Lock()
        self._open: dict[str, tuple[str, float]] = {}

    def close(self) -> None:
        self.log.close()

    def next(self, reviewer: str) -> dict[str, Any]:
        """The sample that ``reviewer`` is to judge, or none, and how far the work is."""
        with self._mutex:
            return self._shown(reviewer, next_task(self.tasks, self.known, reviewer, self._busy()))

    def judge(self, reviewer: str, sample: str, verdict: str, reasons: list[str], note: str) -> dict[str, Any]:
        """Write a verdict down; the answer is what ``next`` gives. A newer one on the same sample replaces it."""
        with self._mutex:
            if sample not in self._by_hash:
                raise ApiError("this sample is not under review", 404)
            self._decide(reviewer, sample, verdict, tuple(reasons), {"note": note} if note else {})
            return self._shown(reviewer, next_task(self.tasks, self.known, reviewer, self._busy()))

    def undo(self, reviewer: str) -> dict[str, Any]:
        """Take back the newest verdict of ``reviewer`` that stands, and show its sample again, with what was said."""
        with self._mutex:
            standing = [
                found.people[reviewer]
                for name in self._by_hash
                if (found := self.known.get(name)) and reviewer in found.people
            ]
            if not standing:
                raise ApiError("there is nothing to take back", 409)
            last = max(standing, key=lambda decision: decision.time)
            self._decide(reviewer, last.sample, UNDO, (), {})
            shown = self._shown(reviewer, self._by_hash[last.sample])
            before = {"verdict": last.verdict, "reasons": list(last.reasons), "note": last.details.get("note", "")}
            return {**shown, "before": before}

    def report(self) -> dict[str, Any]:
        with self._mutex:
            return report(self.tasks, self.samples, self.known, self.selection.min_grade)

    def _decide(
        self, reviewer: str, sample: str, verdict: str, reasons: tuple[str, ...], details: dict[str, Any]
    ) -> None:
        self.log.append([Decision(sample, "human", reviewer, VERSION, verdict, now(), reasons, details)])
        self.known[sample] = standings([item for item in self.log.decisions if item.sample == sample])[sample]
        self._open.pop(reviewer, None)

    def _busy(self) -> dict[str, str]:
        old = time.monotonic() - _OPEN_SECONDS
        return {name: sample for name, (sample, since) in self._open.items() if since > old}

    def _shown(self, reviewer: str, task: Task | None) -> dict[str, Any]:
        mine = sum(reviewer in found.people for name in self._by_hash if (found := self.known.get(name)))
        done = sum(min(len(self.known[task.sample.hash].people), task.needed) for task in self.tasks
                   if task.sample.hash in self.known)  # fmt: skip
        progress = {"mine": mine, "done": done, "needed": sum(task.needed for task in self.tasks)}
        if task is None:
            return {"sample": None, "progress": progress}
        self._open[reviewer] = (task.sample.hash, time.monotonic())
        sample = {
            "hash": task.sample.hash, "label": task.label, "language": task.sample.language,
            "messages": [dict(message) for message in task.sample.messages],
        }  # fmt: skip
        return {"sample": sample, "progress": progress}
