"""Curves of the training stages."""

from __future__ import annotations

from typing import Any

from kaiyuan.report.curves import (
    Line,
    cumulative_tokens,
    curve,
    metric,
    router_curves,
    smoothed,
    thinned,
)
from kaiyuan.report.files import MODELS, RunFiles
from kaiyuan.training.schedule import Schedule


def pretraining_data(files: RunFiles) -> dict[str, Any] | None:
    """Pre-training and the long-context stages on one axis of tokens.

    ``segments`` say where each begins, where it ends and where its annealing starts; ``curves`` and ``router`` have x
    in tokens. None without any metrics.
    """
    recipe = files.recipe()
    parts = [("pretrain", "pretrain"), *(("extend", folder) for folder in files.extension_folders())]
    lines: list[Line] = []
    x: list[float] = []
    segments: list[dict[str, Any]] = []
    smooth: dict[str, list[float]] = {"x": [], "y": []}
    for section, folder in parts:
        found = files.metrics(folder)
        if not found:
            continue
        start = x[-1] if x else 0.0
        places = cumulative_tokens(found, start)
        segments.append(_segment(recipe.get(section) or {}, section, folder, places, start))
        own = smoothed(metric(found, places, "loss"))
        smooth = {"x": smooth["x"] + own["x"], "y": smooth["y"] + own["y"]}
        lines, x = [*lines, *found], [*x, *places]
    if not lines:
        return None
    names = ("loss", "lr", "expert_lr", "grad_norm", "balance_loss")
    curves = {name: thinned(metric(lines, x, name)) for name in names}
    refused = sum(line.get("applied") is False for line in lines)
    return {
        "segments": segments, "curves": {**curves, "smooth_loss": smooth}, "router": router_curves(lines, x),
        "steps": len(lines), "tokens": x[-1], "refused_updates": refused,
    }  # fmt: skip


def _segment(section: dict[str, Any], name: str, folder: str, places: list[float], start: float) -> dict[str, Any]:
    schedule = Schedule(peak=1.0, steps=len(places), anneal_share=section.get("anneal_share", 0.0))
    first = schedule.anneal_start
    anneal = (places[first - 1] if first else start) if first < len(places) else None
    length = int(folder.rpartition("-")[2]) if name == "extend" else section.get("sequence_length")
    return {"stage": name, "length": length, "start": start, "end": places[-1], "anneal_start": anneal,
            "steps": len(places)}  # fmt: skip


def alignment_data(files: RunFiles, stage: str) -> dict[str, Any] | None:
    """Curves over the steps of SFT or DPO, every metric that is a number; None without metrics."""
    lines = files.metrics(stage)
    if not lines:
        return None
    x = [float(line["step"] + 1) for line in lines]
    known = {"step", "tokens", "applied", "time", "router"}
    names = sorted({name for line in lines for name in line if name not in known})
    curves = {}
    for name in names:
        points = metric(lines, x, name)
        if points["x"]:
            curves[name] = {"raw": thinned(points), "smooth": smoothed(points)}
    return {"steps": len(lines), "tokens": sum(line["tokens"] for line in lines), "curves": curves}


def throughput(files: RunFiles) -> list[dict[str, Any]]:
    """Tokens per second over the tokens of every training stage, smoothed, with the stage's mean."""
    found = []
    folders = {stage: [stage] for stage in MODELS} | {"extend": files.extension_folders()}
    for stage in MODELS:
        lines = [line for folder in folders[stage] for line in files.metrics(folder)]
        seconds = sum(line["time"]["seconds"] for line in lines)
        if not lines or seconds <= 0:
            continue
        x = cumulative_tokens(lines)
        points = curve(x, [line["time"]["tokens_per_second"] for line in lines])
        found.append({"stage": stage, "mean": round(x[-1] / seconds, 1), "curve": smoothed(points)})
    return found
