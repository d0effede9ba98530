"""Seeds: texts that instructions grow from. JSONL files or folders of them, damaged lines skipped.

Seeds stay in memory during a run, at most 50,000 characters of each: give a large collection a ``limit``.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.corpus.units import units
from kaiyuan.errors import DataError
from kaiyuan.synthesis.llm.calls import digest
from kaiyuan.synthesis.llm.config import Seeds
from kaiyuan.synthesis.llm.guards import language_of

_FEWEST_UNITS = 5
_LONGEST_LINE, _MOST_CHARS = 16 << 20, 50_000


@dataclass(frozen=True)
class Seed:
    id: str
    source: str
    language: str
    text: str
    answer: str = ""
    """Of a question: kept out of its instructions."""

    @property
    def hash(self) -> str:
        return digest(self.text)


def read_seeds(groups: Sequence[Seeds], languages: Sequence[str]) -> tuple[list[Seed], Counter[str]]:
    """The seeds, each text once, in an order that depends on them alone; and how many lines were left out, and why."""
    skipped: Counter[str] = Counter()
    found: dict[str, Seed] = {}
    for group in groups:
        for seed in _chosen(group, languages, skipped):
            if seed.hash in found:
                skipped["text occurs twice"] += 1
            else:
                found[seed.hash] = seed
    if not found:
        why = ", ".join(f"{reason} {count}" for reason, count in skipped.most_common()) or "the files are empty"
        raise DataError(f"no seeds in {', '.join(group.path for group in groups)}: {why}")
    return list(found.values()), skipped


def _chosen(group: Seeds, languages: Sequence[str], skipped: Counter[str]) -> list[Seed]:
    seeds = _of_group(group, languages, skipped)
    if not group.limit:
        return list(seeds)
    return heapq.nsmallest(group.limit, seeds, key=lambda seed: seed.hash)


def _of_group(group: Seeds, languages: Sequence[str], skipped: Counter[str]) -> Iterator[Seed]:
    for path in _files(Path(group.path)):
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                seed = _seed(line, group.source, f"{path.name}:{number}")
                if isinstance(seed, str):
                    skipped[seed] += 1
                elif seed.language not in languages:
                    skipped[f"language {seed.language}"] += 1
                else:
                    yield seed


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else []
    if not files:
        raise DataError(f"{path}: no such file, and no folder with .jsonl files; set seeds.path")
    return files


def _seed(line: bytes, source: str, place: str) -> Seed | str:
    """The seed of a line, or why there is none."""
    if len(line) > _LONGEST_LINE:
        return "line too long"
    try:
        row: Any = json.loads(line)
        text = row["text"]
    except (ValueError, RecursionError):
        return "not JSON"
    except (KeyError, TypeError):
        return "no text"
    if not isinstance(text, str) or len(units(text)) < _FEWEST_UNITS:
        return "no text" if not isinstance(text, str) else "too short"
    text = _clean(text[:_MOST_CHARS])
    language = row.get("language")
    if language not in ("en", "zh"):
        language = language_of(text) if language is None else str(language)[:16]
    answer, id = row.get("answer"), row.get("id")
    return Seed(
        str(id)[:200] if isinstance(id, str | int) else place,
        source,
        language,
        text,
        _clean(answer) if isinstance(answer, str) else "",
    )


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()
