"""Samples and folders of curation for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kaiyuan.curation.log import Decision, DecisionLog
from kaiyuan.curation.places import CANDIDATES, DECISIONS
from kaiyuan.curation.sample import Sample
from kaiyuan.files import write_jsonl


def sample(question: str, answer: str, **more: Any) -> Sample:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Sample(messages, **{"language": "en", "source": "test", **more})


def decision(of: Sample | str, tier: Any, verdict: str, by: str = "judge", **more: Any) -> Decision:
    name = of if isinstance(of, str) else of.hash
    return Decision(name, tier, by, "1", verdict, "2026-01-01T00:00:00.000+00:00", **more)


def folder_of(path: Path, samples: Sequence[Sample], decisions: Sequence[Decision] = ()) -> Path:
    write_jsonl(path / CANDIDATES, (item.row() for item in samples))
    with DecisionLog(path / DECISIONS) as log:
        log.append(decisions)
    return path
