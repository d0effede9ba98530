"""The evaluation's results as the report shows them: with intervals, and a few answers side by side."""

from __future__ import annotations

from typing import Any

from kaiyuan.evaluation.intervals import wilson_interval
from kaiyuan.report.files import MODELS

MOST_ANSWERS = 12


def evaluation_data(results: dict[str, Any]) -> dict[str, Any] | None:
    """``compression``, ``stages`` (in order, each with bits per byte, accuracies with 95% intervals, needle and
    samples) and ``answers``; None without results.
    """
    if not results:
        return None
    stages = {name: results["stages"][name] for name in MODELS if name in results.get("stages", {})}
    return {
        "compression": results.get("compression", {}),
        "stages": {name: _stage(result) for name, result in stages.items()},
        "answers": _answers({name: (result.get("tasks") or {}).get("answers", []) for name, result in stages.items()}),
    }


def _stage(result: dict[str, Any]) -> dict[str, Any]:
    tasks = result.get("tasks") or {}
    return {
        "form": result.get("form"),
        "bits_per_byte": result.get("bits_per_byte") or {},
        "tasks": {
            "all": _with_interval(tasks),
            "by_kind": {name: _with_interval(row) for name, row in tasks.get("by_kind", {}).items()},
            "by_language": {name: _with_interval(row) for name, row in tasks.get("by_language", {}).items()},
        } if tasks else None,
        "needle": result.get("needle"),
        "samples": result.get("samples") or [],
    }  # fmt: skip


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    low, high = wilson_interval(round(row["accuracy"] * row["count"]), row["count"])
    return {"accuracy": row["accuracy"], "count": row["count"], "low": low, "high": high}


def _answers(by_stage: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first problem of each kind, languages in turn, with every stage's answer: nothing is picked by its result."""
    given = {stage: {row["prompt"]: row for row in rows} for stage, rows in by_stage.items()}
    shown = []
    for row in _picked(next((rows for rows in by_stage.values() if rows), [])):
        answers = {
            stage: {"answer": rows[row["prompt"]]["answer"], "correct": rows[row["prompt"]]["correct"]}
            for stage, rows in given.items()
            if row["prompt"] in rows
        }
        shown.append({**{key: row[key] for key in ("prompt", "expected", "kind", "language")}, "answers": answers})
    return shown


def _picked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    languages = sorted({row["language"] for row in rows})
    picked: list[dict[str, Any]] = []
    for rank in range(MOST_ANSWERS):
        for number, kind in enumerate(kinds):
            language = languages[(number + rank) % len(languages)]
            fitting = [row for row in rows if row["kind"] == kind and row["language"] == language and row not in picked]
            if fitting and len(picked) < MOST_ANSWERS:
                picked.append(fitting[0])
    return picked
