"""Samples whose truth is known, and configs of judges, for the fake server of tests/synthesis."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from curated import decision, folder_of, sample
from fake_models import is_right, make_chinese, make_instruction, solve
from llm_config import as_toml

from kaiyuan.curation.sample import Sample

KINDS = ("math", "code", "objective", "open")


def solved(count: int, wrong: float = 0.3, **more: Any) -> list[Sample]:
    """Questions in both languages with answers, of which the share ``wrong`` is wrong."""
    found = []
    for number in range(count):
        rng = Random(f"solved {number}")
        task = make_chinese(rng) if number % 5 == 4 else make_instruction(rng, KINDS[number % 5])
        language = "zh" if number % 5 == 4 else "en"
        found.append(sample(task, solve(task, rng, rng.random() < wrong), language=language, **more))
    return found


def truth(of: Sample) -> bool:
    return is_right(of.question, of.answer)


def checked(path: Path, samples: list[Sample]) -> Path:
    """A folder whose samples all passed the rules."""
    return folder_of(path, samples, [decision(item, "rules", "keep", by="rules") for item in samples])


def judges(url: str, critics: tuple[str, ...] = ("grader",), **sections: Any) -> dict[str, Any]:
    endpoint = {"base_url": url, "concurrency": 8, "price_in": 1.0, "price_out": 2.0, "timeout": 5.0,
                **sections.pop("endpoint", {})}  # fmt: skip
    return {
        "endpoints": {name: {**endpoint, "model": name} for name in (*critics, "judge")},
        "critics": [{"endpoint": name} for name in critics],
        "labeller": {"endpoint": "judge"},
        "client": {"backoff": 0.01, "longest_backoff": 0.1, "probe_every": 0.1, **sections.pop("client", {})},
        **sections,
    }


def config_file(path: Path, made: dict[str, Any]) -> Path:
    votes = f"votes = {made['votes']}\n" if "votes" in made else ""
    tables = {name: value for name, value in made.items() if name != "votes"}
    path.write_text(votes + as_toml(tables), encoding="utf-8")
    return path
