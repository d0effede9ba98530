"""A config for the fake server, and seeds to go with it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from kaiyuan.synthesis.llm.config import SynthesisConfig

WORDS = [
    "river", "stone", "market", "paper", "winter", "engine", "forest", "ledger", "copper", "island", "morning",
    "signal", "harvest", "garden", "bridge", "letter", "cotton", "valley", "number", "window", "silver", "captain",
    "shadow", "barley", "mirror", "anchor", "lantern", "thunder", "meadow", "quarry",
]  # fmt: skip


def write_seeds(path: Path, count: int, language: str = "en") -> Path:
    """``count`` seeds of random words; no two are alike."""
    rows = []
    for number in range(count):
        rng = Random(f"seed {number}")
        text = f"Seed {number}. " + " ".join(rng.choice(WORDS) for _ in range(60))
        if language == "zh":
            text = f"第{number}篇：" + "".join(rng.choice("山水风云日月花鸟春秋江河大小天地人心") for _ in range(60))
        rows.append(json.dumps({"id": f"s{number}", "text": text, "language": language}))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def values(url: str, seeds: Path, **sections: Any) -> dict[str, Any]:
    """The config as TOML would give it: one endpoint for each role, all at ``url``."""
    endpoint = {"base_url": url, "concurrency": 16, "price_in": 1.0, "price_out": 2.0, "timeout": 5.0,
                **sections.pop("endpoint", {})}  # fmt: skip
    models = ("instructor", "evolver", "judge", "critic", "solver")
    roles = {name: {"endpoint": name} for name in models[:4]}
    made = {
        "endpoints": {name: {**endpoint, "model": name} for name in models},
        "roles": {**roles, "responders": {"default": {"endpoint": "solver"}}},
        "seeds": [{"path": str(seeds), "source": "document"}],
        "client": {"backoff": 0.01, "longest_backoff": 0.1, "probe_every": 0.1, "give_up": 20.0},
        "evolution": {"expansion": 0.1},
    }
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section} if isinstance(section, dict) else section
    return made


def config(url: str, seeds: Path, **sections: Any) -> SynthesisConfig:
    return SynthesisConfig.model_validate(values(url, seeds, **sections))


def as_toml(made: dict[str, Any]) -> str:
    """Nested tables of plain values as TOML."""
    lines: list[str] = []
    _table(made, (), lines)
    return "\n".join(lines) + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    lists = {
        key: value for key, value in table.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    if path:
        lines.append(f"[{'.'.join(json.dumps(part) for part in path)}]")
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in lists and key not in tables]
    for key, rows in lists.items():
        for row in rows:
            lines.append(f"[[{key}]]")
            lines += [f"{name} = {json.dumps(value)}" for name, value in row.items()]
    for key, value in tables.items():
        _table(value, (*path, key), lines)
