"""Everything the report shows, as one JSON value.

What the clock or the machine's memory decides is under ``time`` and nowhere else: the rest is the same for a run that
was killed and resumed as for one that was not.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kaiyuan.model.config import ModelConfig
from kaiyuan.report.evaluation_data import evaluation_data
from kaiyuan.report.files import STAGES, RunFiles
from kaiyuan.report.training_data import alignment_data, pretraining_data, throughput


def report_data(run: Path) -> dict[str, Any]:
    """The numbers of the run in folder ``run``; parts whose stages are not there are None."""
    files = RunFiles(run)
    recipe = files.recipe()
    status = {stage: files.status(stage) for stage in STAGES}
    return {
        "name": recipe.get("run", {}).get("name") or run.name,
        "stages": status,
        "counts": {stage: files.report(stage) or None for stage in STAGES},
        "model": _model(files),
        "training": pretraining_data(files),
        "sft": alignment_data(files, "sft"),
        "dpo": alignment_data(files, "dpo"),
        "evaluation": evaluation_data(files.results()),
        "sources": _sources(recipe, files.report("corpus")),
        "recipe": recipe or None,
        "versions": files.versions() or None,
        "time": _time(files),
    }


def _model(files: RunFiles) -> dict[str, Any] | None:
    from kaiyuan.checkpoint.hf_config import read_config

    folder = files.last_model()
    if folder is None:
        return None
    config = read_config(folder)
    return {**_costs(config), "config": config.model_dump(mode="json"), "rope_base": config.rope_base,
            "reference": {"name": "Hunyuan-Large", **_costs(ModelConfig.preset("hunyuan-large"))}}  # fmt: skip


def _costs(config: ModelConfig) -> dict[str, Any]:
    count, kv = config.parameters(), config.kv_bytes()
    return {
        "parameters": {**asdict(count), "total": count.total, "active": count.active},
        "kv_bytes_per_token": asdict(kv),
    }


def _sources(recipe: dict[str, Any], corpus: dict[str, Any]) -> list[dict[str, Any]]:
    """What text the corpus is made of, with licences as far as they are known."""
    from kaiyuan.corpus.sources.demo import PATH, demo_sources

    section, counted = recipe.get("corpus") or {}, corpus.get("sources", {})
    own = []
    for source in section.get("files", []):
        path, count = source["path"], counted.get(source["path"], {})
        own.append({
            "name": source["name"] or path, "licence": source["licence"] or None, "language": source["language"],
            "documents": count.get("documents"), "bytes": count.get("bytes"),
            "origin": "comes with kaiyuan" if path.startswith(PATH) else path,
        })  # fmt: skip
    return [*(asdict(source) for source in demo_sources() if section.get("demo")), *own]


def _time(files: RunFiles) -> dict[str, Any]:
    stages = {stage: files.manifest(stage).get("time") for stage in STAGES}
    measured = {stage: time for stage, time in stages.items() if time}
    return {
        "stages": measured,
        "seconds": sum(time["seconds"] for time in measured.values()),
        "peak_memory_bytes": max((time["peak_memory_bytes"] for time in measured.values()), default=None),
        "throughput": throughput(files),
    }
