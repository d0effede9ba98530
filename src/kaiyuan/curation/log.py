"""The log of decisions: one JSON line each, only ever appended to. A data set is a function of candidates and log.

Nothing is changed in it: a newer decision of the same tier and judge stands in front of an older one, and taking one
back is a decision too. A kill in the middle of a write leaves a torn last line, which is cut off when the log is next
opened for writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from kaiyuan.errors import DataError, KaiyuanError
from kaiyuan.progress import say

Tier = Literal["rules", "label", "critique", "human"]
TIERS: tuple[Tier, ...] = ("rules", "label", "critique", "human")
KEEP, DROP, UNDO, NONE = "keep", "drop", "undo", "none"


@dataclass(frozen=True)
class Decision:
    """What one judge found about one sample."""

    sample: str
    """Hash of the sample."""
    tier: Tier
    by: str
    """Name of the set of rules, of the model, or of the person."""
    version: str
    """Of the rules, of the rubric and prompt, or of the review."""
    verdict: str
    """``keep`` or ``drop`` of rules and people (who may also ``undo``), a grade ``1`` to ``4`` or ``none`` of the
    critique, a topic of the taxonomy (or ``none``) as a label."""
    time: str
    """UTC, ISO 8601."""
    reasons: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def says_the_same_as(self, other: Decision) -> bool:
        """Whether the two differ in nothing but when they were made."""
        return replace(self, time=other.time) == other

    @property
    def summary(self) -> str:
        """Who said what, and why."""
        reasons = f": {', '.join(self.reasons)}" if self.reasons else ""
        return f"{self.tier} by {self.by}: {self.verdict}{reasons}"

    def line(self) -> bytes:
        values = {name: value for name, value in asdict(self).items() if value not in ((), {})}
        return (json.dumps(values, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class DecisionLog:
    """The decisions of a file, and a way to add to them. One process at a time may write: others are refused."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = _locked(path.with_name(f".{path.name}.lock"))
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            _cut_torn_line(self._file, path)
            self.decisions = read_log(path)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, decisions: Iterable[Decision]) -> None:
        """Return when ``decisions`` are on disk."""
        new = list(decisions)
        content = memoryview(b"".join(decision.line() for decision in new))
        try:
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)
        except OSError as error:
            raise KaiyuanError(f"{self.path}: cannot be written ({error.strerror}); mend that and go on") from None
        self.decisions += new

    def close(self) -> None:
        for descriptor in (self._file, self._lock):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def read_log(path: Path, at: int | None = None) -> list[Decision]:
    """The first ``at`` decisions, or all; none without a file. A torn last line is not there yet.

    Raises ``DataError`` naming the line of the first that is damaged, or if there are fewer than ``at``.
    """
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1].splitlines()
    if at is not None and len(whole) < at:
        raise DataError(f"{path}: has {len(whole)} decisions, not {at}")
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(whole[:at], 1)]


def seal_of(path: Path, at: int) -> str:
    """SHA-256 of the first ``at`` lines: tells a log that was changed from one that has grown."""
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(b"".join(content.splitlines(keepends=True)[:at])).hexdigest()


def _parsed(line: bytes, place: str) -> Decision:
    try:
        values = json.loads(line)
        decision = Decision(**{**values, "reasons": tuple(values.get("reasons", ()))})
        texts = (decision.sample, decision.by, decision.version, decision.verdict, decision.time)
        if decision.tier not in TIERS or not all(isinstance(text, str) for text in texts):
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{place}: not a decision; restore the file, it must never be edited") from None
    return decision


def _cut_torn_line(file: int, path: Path) -> None:
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        say(f"{path}: the last {len(content) - end} bytes are a torn write; cut off")
        os.ftruncate(file, end)
        os.fsync(file)


def _locked(path: Path) -> int:
    import fcntl

    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise KaiyuanError(
            f"{path.parent}: another process is writing decisions here; wait for it or stop it"
        ) from None
    return lock


@dataclass
class Standing:
    """What the log says about one sample, newest decisions only."""

    rules: Decision | None = None
    label: Decision | None = None
    critique: Decision | None = None
    people: dict[str, Decision] = field(default_factory=dict)

    @property
    def grade(self) -> int:
        """Of the critique, 4 the best; 0 without one."""
        return int(self.critique.verdict) if self.critique and self.critique.verdict.isdigit() else 0

    @property
    def topic(self) -> str:
        """That the newest label says; "" without one."""
        return self.label.verdict if self.label and self.label.verdict != NONE else ""

    @property
    def labels(self) -> dict[str, Any]:
        """What the newest label says beside the topic: kind, difficulty, and how sure a scorer is."""
        details = self.label.details if self.label and self.topic else {}
        return {name: value for name, value in details.items() if name != "calls"}

    @property
    def votes(self) -> int:
        """Of people: those who keep it less those who drop it."""
        return sum(1 if decision.verdict == KEEP else -1 for decision in self.people.values())


def standings(decisions: Sequence[Decision]) -> dict[str, Standing]:
    """By the samples' hashes."""
    found: dict[str, Standing] = {}
    for decision in decisions:
        standing = found.setdefault(decision.sample, Standing())
        if decision.tier == "human":
            if decision.verdict == UNDO:
                standing.people.pop(decision.by, None)
            else:
                standing.people[decision.by] = decision
        else:
            setattr(standing, decision.tier, decision)
    return found
