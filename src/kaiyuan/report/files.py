"""What a run folder holds. Whatever is absent is None or empty: a report is made of what there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.files import read_json, read_jsonl

STAGES = ("corpus", "tokenizer", "synthesis", "pretrain", "extend", "sft", "dpo", "evaluation")
MODELS = ("pretrain", "extend", "sft", "dpo")
"""The stages that leave a model, in order."""


@dataclass(frozen=True)
class RunFiles:
    """Read access to one run folder."""

    run: Path

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe by section."""
        return self._json("recipe.json") or {}

    def versions(self) -> dict[str, str]:
        return self._json("versions.json") or {}

    def manifest(self, stage: str) -> dict[str, Any]:
        return self._json(f"{stage}/manifest.json") or {}

    def report(self, stage: str) -> dict[str, Any]:
        """The counts that a finished stage left."""
        return self._json(f"{stage}/report.json") or self.manifest(stage).get("report") or {}

    def results(self) -> dict[str, Any]:
        """The evaluation's results."""
        return self._json("evaluation/results.json") or {}

    def metrics(self, folder: str) -> list[dict[str, Any]]:
        """One line for every step of a training stage."""
        path = self.run / folder / "metrics.jsonl"
        return list(read_jsonl(path)) if path.exists() else []

    def extension_folders(self) -> list[str]:
        """``extend/stage-<length>`` in order of length."""
        found = [path.name for path in (self.run / "extend").glob("stage-*") if path.name[6:].isdigit()]
        return [f"extend/{name}" for name in sorted(found, key=lambda name: int(name[6:]))]

    def status(self, stage: str) -> str:
        """``done``, ``unfinished``, ``missing`` (the recipe asks for it) or ``left out`` (it does not)."""
        if (self.run / stage).is_dir():
            return "done"
        if (self.run / f"{stage}.partial").is_dir():
            return "unfinished"
        recipe = self.recipe()
        return "left out" if recipe and recipe.get(stage) is None else "missing"

    def last_model(self) -> Path | None:
        """The model folder of the last training stage."""
        found = [self.run / stage / "model" for stage in MODELS]
        return next((path for path in reversed(found) if (path / "config.json").exists()), None)

    def _json(self, name: str) -> Any:
        path = self.run / name
        return read_json(path) if path.exists() else None
