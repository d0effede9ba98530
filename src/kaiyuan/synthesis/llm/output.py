"""The files of a run: written as it goes under ``.partial`` names, in the order of the rows, and renamed at the end."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kaiyuan.files import fingerprint, read_jsonl, write_json
from kaiyuan.synthesis.llm.calls import RowFailed, digest
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.filtering import Verdict
from kaiyuan.synthesis.llm.library import Library
from kaiyuan.synthesis.llm.rows import Refused, Row, note_of

JOURNAL, REPORT = "journal.jsonl", "report.json"
SFT, PAIRS, REFUSED, FAILED, INSTRUCTIONS = (
    "sft.jsonl", "pairs.jsonl", "refused.jsonl", "failed.jsonl", "instructions.jsonl"
)  # fmt: skip


@dataclass(frozen=True)
class Failed:
    """A row, or a call that would have given rows, which an error ended."""

    id: str
    step: str
    reason: str
    instruction: str = ""

    @classmethod
    def of(cls, id: str, error: RowFailed, row: Row | None = None) -> Failed:
        return cls(id, error.step, error.reason, row.prompt if row else "")


class Outputs:
    """The run's files and counts. Only whole runs replace the files of an earlier one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.refused: dict[str, Counter[str]] = {}
        self.failed: dict[str, Counter[str]] = {}
        self.topics: Counter[str] = Counter()
        self._streams = {
            name: self._partial(name).open("w", encoding="utf-8")
            for name in (SFT, PAIRS, REFUSED, FAILED, INSTRUCTIONS)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.partial"

    def _write(self, name: str, row: dict[str, Any]) -> None:
        stream = self._streams[name]
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        stream.flush()
        self.counts[name] += 1

    def instruction(self, row: Row) -> None:
        self._write(INSTRUCTIONS, row.as_json())

    def instructions(self) -> Iterator[Row]:
        """What ``instruction`` was given so far, from disk."""
        return (Row.from_json(values) for values in read_jsonl(self._partial(INSTRUCTIONS)))

    def refuse(self, refused: Refused) -> None:
        self.refused.setdefault(refused.step, Counter())[refused.reason] += 1
        row = refused.row.as_json() if refused.row else {}
        self._write(REFUSED, {"step": refused.step, "reason": refused.reason, **row, "details": refused.details})

    def fail(self, failed: Failed) -> None:
        self.failed.setdefault(failed.step, Counter())[failed.reason] += 1
        self._write(
            FAILED, {"id": failed.id, "step": failed.step, "reason": failed.reason, "instruction": failed.instruction}
        )

    def accept(self, sample: dict[str, Any], pair: dict[str, Any] | None) -> None:
        self._write(SFT, sample)
        self.topics[f"{sample['labels']['topic']} {sample['language']}"] += 1
        if pair is not None:
            self._write(PAIRS, pair)

    @property
    def failures(self) -> int:
        return self.counts[FAILED]

    @property
    def refusals(self) -> int:
        return self.counts[REFUSED]

    def finish(self, report: dict[str, Any]) -> None:
        """Put the files in place, the report last: a folder with it is complete."""
        for name, stream in self._streams.items():
            stream.flush()
            os.fsync(stream.fileno())
            self._partial(name).replace(self.folder / name)
        write_json(self.folder / REPORT, report)

    def as_json(self) -> dict[str, Any]:
        return {
            "sft_samples": self.counts[SFT],
            "preference_pairs": self.counts[PAIRS],
            "instructions": self.counts[INSTRUCTIONS],
            "refused": {step: dict(counts.most_common()) for step, counts in sorted(self.refused.items())},
            "failed": {step: dict(counts.most_common(50)) for step, counts in sorted(self.failed.items())},
            "topics": dict(sorted(self.topics.items())),
        }


def sample_of(
    config: SynthesisConfig, library: Library, row: Row, verdict: Verdict, tests_from: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The SFT row: what ``kaiyuan.alignment`` reads (``messages``), labels, and all that led to it."""
    role = config.responder_of(row.topic)
    answered = note_of(config, "responses", role, verdict.chosen.answer, text=digest(verdict.chosen.text))
    return {
        "messages": [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": verdict.chosen.text}],
        "kind": row.kind,
        "language": row.language,
        "key": f"llm:{row.id}",
        "labels": labels_of(row),
        "scores": verdict.details,
        "provenance": {
            "seed": row.seed,
            "trail": [*row.trail, *tests_from, answered, *verdict.notes],
            "versions": dict(library.versions),
            "config": config_hash(config),
        },
    }


def pair_of(row: Row, verdict: Verdict) -> dict[str, Any] | None:
    """A preference pair, if there is a response that came to something else."""
    if verdict.rejected is None:
        return None
    return {
        "messages": [{"role": "user", "content": row.prompt}],
        "chosen": verdict.chosen.text,
        "rejected": verdict.rejected.text,
        "kind": row.kind,
        "language": row.language,
        "labels": labels_of(row),
        "key": f"llm:{row.id}",
    }


def labels_of(row: Row) -> dict[str, Any]:
    return {"domain": row.topic.partition("/")[0], "topic": row.topic, "difficulty": row.difficulty}


def config_hash(config: SynthesisConfig) -> str:
    return fingerprint(config.model_dump())
